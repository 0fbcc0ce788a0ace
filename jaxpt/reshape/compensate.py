"""Least-squares compensation: what is lost with the dropped inputs of o and down, put back through the kept ones.

With S the uncentred second moment of the full input of a matrix M (inputs first, `[n, D]`) and k the kept inputs,
M' = (S[k, k] + λ I)^-1 S[k, :] M minimises E |x M - x_k M'|^2; λ = ridge × mean diagonal of S. Only matrices that
write to the residual stream are compensated: the norms before the others restore the scale of what they read.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import Compute, ModelConfig
from jaxpt.models.batch import Rows
from jaxpt.reshape.calibrate import ExtraSums, Scoring, activation_scores
from jaxpt.reshape.ops import Mix
from jaxpt.reshape.rewrite import LineageEntry, Rewrite, Term
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.subclone import choose
from jaxpt.reshape.walk import Activations, LayerMeasure, LayerSums, walk

RIDGE = 1e-3
READS = {"mlp": "ffn_hidden", "heads": "attention_out"}  # axis that is cut -> activation whose moments are needed


def solve(moment: np.ndarray, kept: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Returns (S[k, k] + λ I)^-1 S[k, :], `[k, n]` float32, for a second moment S `[n, n]`."""
    s = np.asarray(moment, np.float64)
    inner = s[np.ix_(kept, kept)]
    inner[np.diag_indices_from(inner)] += ridge * np.trace(s) / len(s) + np.finfo(np.float64).tiny
    return np.linalg.solve(inner, s[kept]).astype(np.float32)


def _moments(axes: tuple[str, ...]) -> LayerMeasure:
    def measure(activations: Activations, x: jax.Array, y: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
        out = {}
        for axis in axes:
            a = activations[READS[axis]].astype(jnp.float32)
            a = a.reshape(-1, a.shape[2] if axis == "mlp" else a.shape[2] * a.shape[3]) * weight.reshape(-1, 1)
            out[axis] = jnp.matmul(a.T, a, precision=jax.lax.Precision.HIGHEST)
        return out

    return measure


_MEASURES: dict[tuple[str, ...], LayerMeasure] = {
    axes: _moments(axes) for axes in (("mlp",), ("heads",), ("mlp", "heads"))
}


class _Fit:
    """The compensating matrices of all layers, `[L, k, n]` per axis, filled layer by layer."""

    def __init__(self, config: ModelConfig, keep: Mapping[str, int], ridge: float, folder: Path | None) -> None:
        if "mlp" in keep and config.layers_of("moe"):
            raise JaxptError("compensation along mlp is for dense layers only; this model has mixtures of experts")
        self.axes = tuple(a for a in READS if a in keep)
        self.width = {"mlp": 1, "heads": config.head_dim}
        self.ridge = ridge
        self.matrices: dict[str, np.ndarray] = {}
        for axis in self.axes:
            shape = (len(config.layers), keep[axis] * self.width[axis], _inputs(config)[axis])
            if folder is None:
                self.matrices[axis] = np.zeros(shape, np.float32)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                self.matrices[axis] = np.lib.format.open_memmap(folder / f"{axis}.npy", "w+", np.float32, shape)

    def solve(self, l: int, moments: LayerSums, kept: Mapping[str, np.ndarray]) -> None:
        """Solves layer `l` for the positions `kept` (`[k]` per axis), after which its moments are not needed."""
        for axis in self.axes:
            index = (kept[axis][:, None] * self.width[axis] + np.arange(self.width[axis])).reshape(-1)
            self.matrices[axis][l] = solve(moments[axis], index, self.ridge)


def _inputs(config: ModelConfig) -> dict[str, int]:
    return {"mlp": config.mlp, "heads": config.heads * config.head_dim}


def moment_flops(config: ModelConfig, axes: Iterable[str], tokens: int) -> float:
    """Returns what summing the second moments of `axes` over `tokens` costs beside the forward pass."""
    return float(2 * tokens * len(config.layers) * sum(_inputs(config)[a] ** 2 for a in axes))


def gather_compensation(
    source: ModelSlices,
    batches: Sequence[Rows[np.ndarray]],
    kept: Mapping[str, np.ndarray],
    *,
    ridge: float = RIDGE,
    folder: Path | None = None,
    compute: Compute = Compute(),  # noqa: B008
) -> dict[str, np.ndarray]:
    """Returns the compensating matrices per axis, `[L, k, n]`, from one pass over the data.

    Each layer's second moments live only while that layer is solved.

    Args:
        source: the uncut model.
        batches: see `jaxpt.reshape.walk`.
        kept: index sets `[L, k]` of "mlp" and of "heads" (query heads; whole heads are compensated together).
        ridge: λ relative to the mean diagonal.
        folder: where to keep the matrices as memory-mapped files, for models whose matrices exceed memory.
        compute: dtypes and attention implementation.

    Raises:
        JaxptError: `mlp` of a model with mixtures of experts.
    """
    fit = _Fit(source.config, {a: index.shape[1] for a, index in kept.items()}, ridge, folder)

    def on_layer(l: int, sums: LayerSums) -> None:
        fit.solve(l, sums, {a: index[l] for a, index in kept.items()})

    if fit.axes:
        walk(source, batches, _MEASURES[fit.axes], on_layer, compute)
    return fit.matrices


def score_and_compensate(
    source: ModelSlices,
    batches: Sequence[Rows[np.ndarray]],
    want: Mapping[str, int],
    *,
    ridge: float = RIDGE,
    folder: Path | None = None,
    **scoring: Unpack[Scoring],
) -> tuple[Scores, dict[str, np.ndarray]]:
    """Returns scores, and the compensating matrices of the cut to `want` that they choose, from the same pass.

    What a layer keeps along `mlp` and `heads` depends on its own scores alone, so each layer is solved as soon as it
    was passed and its second moments are dropped.

    Args:
        source: the uncut model.
        batches: see `jaxpt.reshape.walk`.
        want: every length of the target, see `target.lengths`.
        ridge: as in `gather_compensation`.
        folder: as in `gather_compensation`.
        scoring: further arguments of `calibrate.activation_scores`, whose errors it raises.

    Raises:
        JaxptError: `mlp` of a model with mixtures of experts.
    """
    c = source.config
    keep = {a: want[a] for a in READS if want[a] != getattr(c, a)}
    fit = _Fit(c, keep, ridge, folder)

    def on_layer(l: int, scores: Scores, sums: LayerSums) -> None:
        kept = choose(c.replace(layers=(c.layers[l],)), {**want, "layers": 1}, scores, depth="first")
        fit.solve(l, sums, {a: getattr(kept, a)[0] for a in fit.axes})

    extra = ExtraSums(_MEASURES[fit.axes], on_layer) if fit.axes else None
    scores = activation_scores(source, batches, extra=extra, **scoring)
    return scores, fit.matrices


def compensated(
    rewrite: Rewrite, matrices: Mapping[str, np.ndarray], *, tokens: int = 0, flops: float = 0.0
) -> Rewrite:
    """Returns a cut with the selection of what reads "mlp" and "heads" replaced by least squares.

    Args:
        rewrite: a cut made by `subclone_rewrite` with scaling "none" (the fit sets the scale) and the same head_dim.
        matrices: what `gather_compensation` returned for the rewrite's index sets.
        tokens: what gathering them consumed, added to the entry's ledger.
        flops: likewise.

    Raises:
        JaxptError: the rewrite changes head_dim.
    """
    if rewrite.source.head_dim != rewrite.target.head_dim:
        raise JaxptError("compensation needs an unchanged head_dim; cut head_dim in a second transform")
    rules = dict(rewrite.rules)
    for path, spec in rewrite.specs.items():
        for axis, matrix in matrices.items():
            if axis not in spec.fan_in_axes:
                continue
            (term,) = rules[path]
            dim = spec.axes.index(axis) - int(spec.stacked)
            kept = np.array(rewrite.entry["layers"])[list(rewrite.target.layers_of(path.split("/")[1]))]
            reads = len(spec.fan_in_axes)
            new = tuple(spec.shape[dim + int(spec.stacked) + i] for i in range(reads))
            mix = Mix(dim, reads, _Rows(matrix, kept), new, per_layer=True)
            others = [op for op in term.ops if not set(op.touched) & set(range(dim, dim + reads))]
            rules[path] = (Term(term.source, (mix, *others), term.layers),)
    entry: LineageEntry = {**rewrite.entry, "compensation": sorted(matrices)}
    entry["tokens"] = int(entry.get("tokens", 0)) + tokens
    entry["flops"] = float(entry.get("flops", 0.0)) + flops
    return Rewrite(rewrite.source, rewrite.target, rules, entry)


class _Rows:
    """Rows of a per-layer table, picked lazily so that a memory-mapped one is read layer by layer."""

    def __init__(self, table: np.ndarray, rows: np.ndarray) -> None:
        self.table, self.rows = table, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, layer: int) -> np.ndarray:
        return np.asarray(self.table[int(self.rows[layer])])
