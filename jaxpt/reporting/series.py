"""Metrics of a run as curves: name to steps and values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Records = Sequence[Mapping[str, Any]]  # of a metrics.jsonl or events.jsonl: numbers, texts, and dicts of them
Series = dict[str, tuple[np.ndarray, np.ndarray]]


def series(records: Records, prefix: str) -> Series:
    """Returns every metric whose name starts with `prefix`, the prefix cut off: name to (steps, values)."""
    out: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        for name, value in record.items():
            if name.startswith(prefix) and isinstance(value, (int, float)):
                steps, values = out.setdefault(name[len(prefix) :], ([], []))
                steps.append(record["step"])
                values.append(float(value))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in out.items()}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the running mean over up to `window` values centred at each, shorter at the ends."""
    if window <= 1 or len(values) < 3:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    half = window // 2
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def runs(steps: np.ndarray, records: Records, needed: str) -> list[slice]:
    """Returns `steps` in pieces between which some record has `needed` at 0.

    Args:
        steps: ascending.
        records: of the run, in order.
        needed: a metric; where it is absent, nothing is cut.
    """
    off = np.array([r["step"] for r in records if r.get(needed) == 0.0])
    cuts = np.flatnonzero(np.diff(np.searchsorted(off, steps))) + 1 if len(off) else np.zeros(0, int)
    return [slice(a, b) for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(steps)])]
