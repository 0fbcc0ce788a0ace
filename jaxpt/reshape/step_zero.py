"""What a transform does to the function at step 0: which condition keeps it, and the held-out loss before and after."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpt.cli.terminal import table
from jaxpt.models import Compute
from jaxpt.models.batch import Rows
from jaxpt.reshape.rewrite import LineageEntry, Rewrite
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.walk import loss

CUT = "parts of the model are left out"  # of transforms that do not keep the function
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
        return not self.exact or self.before is None or abs(self.after - self.before) <= self.tolerance  # type: ignore[operator]

    def entry(self) -> dict[str, object]:
        """What the lineage keeps."""
        return {"exact": self.exact, "loss_before": self.before, "loss_after": self.after, "tokens": self.tokens}


def measure(
    rewrites: Sequence[Rewrite],
    before: ModelSlices,
    after: ModelSlices,
    batches: Sequence[Rows[np.ndarray]],
    dtypes: Mapping[str, str],
    compute: Compute = Compute(),  # noqa: B008
) -> StepZero:
    """Returns what holds at step 0 of the model `after` that `rewrites` make of `before`.

    Args:
        rewrites: the steps.
        before: the source.
        after: the result.
        batches: held-out rows as `jaxpt.reshape.walk.loss` takes them; none: nothing is measured.
        dtypes: of the result's parameters, which decide what counts as rounding.
        compute: dtypes of the forward pass.
    """
    exact = all(bool(p.entry.get("exact")) for p in rewrites)
    why = tuple(str(p.entry.get("why", CUT)) for p in rewrites)
    if not batches:
        return StepZero(exact, why)
    kinds = {*dtypes.values(), str(compute.dtype)}
    tokens = sum(int(np.size(b["tokens"])) for b in batches)
    return StepZero(
        exact,
        why,
        loss(before, batches, compute),
        loss(after, batches, compute),
        tokens,
        max(ROUNDING[k] for k in kinds),
    )


def report(rewrites: Sequence[Rewrite], step_zero: StepZero) -> str:
    """Returns the table of steps with their conditions, and the line with the losses."""
    rows = [
        [p.entry["op"], _subject(p.entry), "yes" if p.entry.get("exact") else "no", why]
        for p, why in zip(rewrites, step_zero.why)
    ]
    lines = table(["step", "of", "same function", "why"], rows)
    more = [f"{p.entry['op']}: {line}" for p in rewrites for line in details(p)]
    lines = "\n".join([lines, *more])
    if step_zero.before is None or step_zero.after is None:
        return f"{lines}\nstep 0: no held-out rows (config.held_out.sources), so the loss was not measured"
    change = step_zero.after - step_zero.before
    line = f"step 0: loss {step_zero.before:.5f} -> {step_zero.after:.5f} nats per token ({change:+.2g})"
    line += f" on {step_zero.tokens:,} tokens"
    if not step_zero.agrees:
        line += f"\nstep 0: the steps claim the same function, but the loss moved by more than {step_zero.tolerance:g}"
    return f"{lines}\n{line}"


def details(rewrite: Rewrite) -> list[str]:
    """Returns what a step did beyond its table row: which layers went, and what makes up for what was cut."""
    entry, count = rewrite.entry, len(rewrite.source.layers)
    options = entry.get("options", {})
    gone = sorted(set(range(count)) - {int(l) for l in entry["layers"]}) if "layers" in entry else options.get("drop")
    out = []
    if isinstance(gone, Sequence) and gone:
        out.append(f"layers {_runs(gone)} of 0-{count - 1} are left out")
    if isinstance(growth := options.get("growth"), Sequence):
        factor = float(np.prod(growth))
        out.append(f"compensated: what writes to the stream before them is multiplied by {factor:.4g}")
    if fitted := entry.get("compensation"):
        where = {"mlp": "down (neurons left out)", "heads": "o (heads left out)"}
        parts = " and ".join(where.get(axis, axis) for axis in fitted)
        out.append(f"compensated: {parts} refitted by least squares")
    scaling = options.get("scaling", "none")
    if scaling != "none":
        out.append(f"compensated: matrices scaled for the inputs they lost ({scaling})")
    return out


def _runs(numbers: Sequence[int]) -> str:
    """`2-4, 7` for 2, 3, 4, 7."""
    spans: list[list[int]] = []
    for n in sorted(numbers):
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in spans)


def _subject(entry: LineageEntry) -> str:
    options = entry.get("options", {})
    for name in ("axis", "blocks", "layers", "target"):
        if name in options:
            value = options[name]
            return f"{value} {options['size']}" if name == "axis" and "size" in options else f"{name} {value}"
    return ""
