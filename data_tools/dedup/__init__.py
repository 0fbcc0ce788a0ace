"""Find what was said before: signatures, candidates, verification, and the global steps on an engine."""
