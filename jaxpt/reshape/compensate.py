"""Least-squares compensation: what is lost with the dropped inputs of o and down, put back through the kept ones.

With S the uncentred second moment of the full input of a matrix M (inputs first, `[n, D]`) and k the kept inputs,
M' = (S[k, k] + λ I)^-1 S[k, :] M minimises E |x M - x_k M'|^2; λ = ridge × mean diagonal of S. Only matrices that
write to the residual stream are compensated: the norms before the others restore the scale of what they read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import Compute
from jaxpt.reshape.calibrate import walk
from jaxpt.reshape.ops import Mix
from jaxpt.reshape.plan import Plan, Term
from jaxpt.reshape.stream import Source

RIDGE = 1e-3
READS = {"mlp": "ffn_hidden", "heads": "attention_out"}  # axis that is cut -> activation whose moments are needed


def solve(moment: np.ndarray, kept: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Returns (S[k, k] + λ I)^-1 S[k, :], `[k, n]` float32, for a second moment S `[n, n]`."""
    s = np.asarray(moment, np.float64)
    inner = s[np.ix_(kept, kept)]
    inner[np.diag_indices_from(inner)] += ridge * np.trace(s) / len(s) + np.finfo(np.float64).tiny
    return np.linalg.solve(inner, s[kept]).astype(np.float32)


def _moments(axes: tuple[str, ...]) -> Any:
    def measure(seen: dict[str, jax.Array], x: jax.Array, y: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
        out = {}
        for axis in axes:
            a = seen[READS[axis]].astype(jnp.float32)
            a = a.reshape(-1, a.shape[2] if axis == "mlp" else a.shape[2] * a.shape[3]) * weight.reshape(-1, 1)
            out[axis] = jnp.matmul(a.T, a, precision=jax.lax.Precision.HIGHEST)
        return out

    return measure


_MEASURES = {axes: _moments(axes) for axes in (("mlp",), ("heads",), ("mlp", "heads"))}


def gather_compensation(
    source: Source,
    batches: Sequence[Mapping[str, Any]],
    kept: Mapping[str, np.ndarray],
    *,
    ridge: float = RIDGE,
    folder: Path | None = None,
    compute: Compute = Compute(),  # noqa: B008
) -> dict[str, Any]:
    """Returns the compensating matrices per axis, `[L, k, n]`, from one pass over the data.

    Each layer's second moments live only while that layer is solved.

    Args:
        source: the uncut model.
        batches: see `calibrate.walk`.
        kept: index sets `[L, k]` of "mlp" and of "heads" (query heads; whole heads are compensated together).
        ridge: λ relative to the mean diagonal.
        folder: where to keep the matrices as memory-mapped files, for models whose matrices exceed memory.
        compute: dtypes and attention implementation.

    Raises:
        JaxptError: `mlp` of a model with mixtures of experts.
    """
    c = source.config
    if "mlp" in kept and c.layers_of("moe"):
        raise JaxptError("compensation along mlp is for dense layers only; this model has mixtures of experts")
    axes = tuple(a for a in ("mlp", "heads") if a in kept)
    width = {"mlp": 1, "heads": c.head_dim}
    size = {"mlp": c.mlp, "heads": c.heads * c.head_dim}
    out: dict[str, Any] = {}
    for axis in axes:
        shape = (len(c.layers), kept[axis].shape[1] * width[axis], size[axis])
        if folder is None:
            out[axis] = np.zeros(shape, np.float32)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            out[axis] = np.lib.format.open_memmap(folder / f"{axis}.npy", "w+", np.float32, shape)

    def finished(l: int, sums: dict[str, np.ndarray]) -> None:
        for axis in axes:
            index = (kept[axis][l][:, None] * width[axis] + np.arange(width[axis])).reshape(-1)
            out[axis][l] = solve(sums[axis], index, ridge)

    if axes:
        walk(source, batches, _MEASURES[axes], finished, compute)
    return out


def compensated(plan: Plan, matrices: Mapping[str, Any], *, tokens: int = 0, flops: float = 0.0) -> Plan:
    """Returns a cut with the selection of what reads "mlp" and "heads" replaced by least squares.

    Args:
        plan: a cut made by `subclone_plan` with scaling "none" (the fit sets the scale) and an unchanged head_dim.
        matrices: what `gather_compensation` returned for the plan's index sets.
        tokens: what gathering them consumed, added to the entry's ledger.
        flops: likewise.

    Raises:
        JaxptError: the plan changes head_dim.
    """
    if plan.source.head_dim != plan.target.head_dim:
        raise JaxptError("compensation needs an unchanged head_dim; cut head_dim in a second transform")
    rules = dict(plan.rules)
    for path, spec in plan.specs.items():
        for axis, matrix in matrices.items():
            if axis not in spec.fan_in_axes:
                continue
            (term,) = rules[path]
            dim = spec.axes.index(axis) - int(spec.stacked)
            kept = np.array(plan.entry["layers"])[list(plan.target.layers_of(path.split("/")[1]))]
            reads = len(spec.fan_in_axes)
            new = tuple(spec.shape[dim + int(spec.stacked) + i] for i in range(reads))
            mix = Mix(dim, reads, _Rows(matrix, kept), new, per_layer=True)
            others = [op for op in term.ops if not set(_dims(op)) & set(range(dim, dim + reads))]
            rules[path] = (Term(term.source, (mix, *others), term.layers),)
    entry = {**plan.entry, "compensation": sorted(matrices)}
    entry["tokens"] = int(entry.get("tokens", 0)) + tokens
    entry["flops"] = float(entry.get("flops", 0.0)) + flops
    return Plan(plan.source, plan.target, rules, entry)


def _dims(op: Any) -> tuple[int, ...]:
    return op.dims or (() if op.dim is None else (op.dim,))


class _Rows:
    """Rows of a per-layer table, picked lazily so that a memory-mapped one is read layer by layer."""

    def __init__(self, table: Any, rows: np.ndarray):
        self.table, self.rows = table, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, layer: int) -> np.ndarray:
        return np.asarray(self.table[int(self.rows[layer])])
