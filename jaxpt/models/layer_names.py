"""Layers as a line of text names them."""

from collections.abc import Sequence


def named_layers(layers: Sequence[int]) -> str:
    """Returns "layers 0–3, 6"."""
    runs: list[list[int]] = []
    for n in layers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(parts)}"
