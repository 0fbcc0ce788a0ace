"""Speed on one GPU: `python -m benchmarks.gpu first` and `second`, each within four minutes, a row per measurement."""
