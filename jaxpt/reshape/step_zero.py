"""What a transform does to the function at step 0: which condition keeps it, and the held-out loss before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxpt.cli.terminal import table
from jaxpt.models import Compute
from jaxpt.reshape.calibrate import loss
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.stream import ModelSlices

CUT = "parts of the model are left out"  # what is said of transforms that claim nothing
ROUNDING = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 5e-3}  # nats by which an exact step may change the loss


@dataclass(frozen=True)
class StepZero:
    """Losses in nats per token on the same held-out rows, None where there were none.

    `exact` says whether every step keeps the function, `why` holds one reason per step.
    """

    exact: bool
    why: tuple[str, ...]
    before: float | None = None
    after: float | None = None
    tokens: int = 0
    tolerance: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether the measurement does not contradict the claim."""
        return not self.exact or self.before is None or abs(self.after - self.before) <= self.tolerance  # type: ignore

    def entry(self) -> dict[str, Any]:
        """What the lineage keeps."""
        return {"exact": self.exact, "loss_before": self.before, "loss_after": self.after, "tokens": self.tokens}


def measure(
    rewrites: Sequence[Rewrite],
    before: ModelSlices,
    after: ModelSlices,
    batches: Sequence[Mapping[str, Any]],
    dtypes: Mapping[str, str],
    compute: Compute = Compute(),  # noqa: B008
) -> StepZero:
    """Returns what holds at step 0 of the model `after` that `rewrites` make of `before`.

    Args:
        rewrites: the steps.
        before: the source.
        after: the result.
        batches: held-out rows as `calibrate.loss` takes them; none: nothing is measured.
        dtypes: of the result's parameters, which decide what counts as rounding.
        compute: dtypes of the forward pass.
    """
    exact = all(bool(p.entry.get("exact")) for p in rewrites)
    why = tuple(str(p.entry.get("why", CUT)) for p in rewrites)
    if not batches:
        return StepZero(exact, why)
    kinds = {*dtypes.values(), str(compute.dtype)}
    tokens = sum(int(np.size(b["tokens"])) for b in batches)
    losses = [loss(m, batches, compute) for m in (before, after)]
    return StepZero(exact, why, *losses, tokens, max(ROUNDING[k] for k in kinds))


def report(rewrites: Sequence[Rewrite], found: StepZero) -> str:
    """Returns the table of steps with their conditions, and the line with the losses."""
    rows = [
        [p.entry["op"], _subject(p.entry), "yes" if p.entry.get("exact") else "no", why]
        for p, why in zip(rewrites, found.why)
    ]
    said = table(["step", "of", "same function", "why"], rows)
    if found.before is None or found.after is None:
        return f"{said}\nstep 0: no held-out rows (config.held_out.sources), so the loss was not measured"
    change = found.after - found.before
    line = f"step 0: loss {found.before:.5f} -> {found.after:.5f} nats per token ({change:+.2g})"
    line += f" on {found.tokens:,} tokens"
    if not found.agrees:
        line += f"\nstep 0: the steps claim the same function, but the loss moved by more than {found.tolerance:g}"
    return f"{said}\n{line}"


def _subject(entry: Mapping[str, Any]) -> str:
    options = entry.get("options", {})
    for name in ("axis", "blocks", "layers", "target"):
        if name in options:
            value = options[name]
            return f"{value} {options['size']}" if name == "axis" and "size" in options else f"{name} {value}"
    return ""
