"""What a kernel computes against what its reference computes, and how far they may differ.

Errors are those of a bfloat16 computation, so what is allowed is measured too: three times the error of the reference
itself in the kernel's dtype, against the reference in float32.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

ALLOWED = 3.0  # times the reference's own error
LEAST = 1e-4  # of float32 kernels, whose reference has none

Errors = dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Of one kernel at one call: error and allowance by part and measure; `reason` says why it is refused."""

    errors: Errors
    allowed: Errors
    reason: str | None


def errors(parts: Mapping[str, tuple[jax.Array, jax.Array]]) -> Errors:
    """Returns two measures of each part, given as found and wanted `[positions, …]`.

    The largest error, of the largest value; and the root mean square over positions of the error there, of the size
    there, by which a mask that is off by one shows in long rows, too.
    """
    out = {}
    for part, (found, wanted) in parts.items():
        x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (found, wanted))
        size = np.sqrt((y**2).sum(1))
        floor = np.sqrt(np.mean(size**2)) * 1e-2  # of some positions the gradient is none
        relative = np.sqrt(((x - y) ** 2).sum(1)) / np.maximum(size, max(floor, 1e-30))
        out[f"{part} (largest)"] = float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-30))
        out[f"{part} (by position)"] = float(np.sqrt(np.mean(relative**2)))
    return out


def allowed(own: Errors) -> Errors:
    """Returns what a kernel's errors may be, from the reference's own in the kernel's dtype."""
    return {key: max(ALLOWED * error, LEAST) for key, error in own.items()}


def judged(trials: Iterable[tuple[Errors, Errors]], reference: str) -> Comparison:
    """Returns the worst of some trials, each the errors and what is allowed; beyond that, with the reason."""
    worst: Errors = {}
    most: Errors = {}
    for found, may in trials:
        for key in found:
            if key not in worst or found[key] / may[key] > worst[key] / most[key]:
                worst[key], most[key] = found[key], may[key]
    key = max(worst, key=lambda k: worst[k] / most[k])
    wrong = not worst[key] <= most[key]  # NaN is wrong
    what = f"it differs from {reference!r}: error {worst[key]:.2g} of {key}, allowed is {most[key]:.2g}"
    return Comparison(worst, most, what if wrong else None)
