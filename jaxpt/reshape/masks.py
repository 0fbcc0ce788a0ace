"""From learned gates to a cut: exact counts, what is left of the gates folded into the weights, then the usual cut.

Gates are laid out as `jaxpt.models.masks` says: a dict from axis to arrays with a row for each layer that has the axis.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models import Compute, ModelConfig, flatten, forward, param_specs
from jaxpt.models.batch import Rows, kinds
from jaxpt.models.masks import factors, layers_with, with_mask
from jaxpt.models.params import Params
from jaxpt.models.specs import ParamSpec, block_specs
from jaxpt.reshape.axes import with_groups
from jaxpt.reshape.ops import Op, Scale
from jaxpt.reshape.rewrite import LineageEntry, Rewrite, Term, copy
from jaxpt.reshape.subclone import Kept, cut, top
from jaxpt.reshape.target import MOE_LENGTHS, lengths_of

HostGates = Mapping[str, np.ndarray]


def rows_of(config: ModelConfig, axis: str, gates: np.ndarray, want: Mapping[str, int]) -> tuple[np.ndarray, int]:
    """Returns gates in rows that are each cut to the same length, and that length.

    Query heads have one row for each kv head, neurons of experts one for each expert, all other axes one for each
    layer; `embed` and `layers` have a single row.
    """
    if axis == "heads":
        return gates.reshape(-1, config.group), want["heads"] // want["kv_heads"]
    return gates.reshape(-1, gates.shape[-1]), want[axis]


def final_masks(
    config: ModelConfig, want: Mapping[str, int], ranking: HostGates, values: HostGates | None = None
) -> dict[str, np.ndarray]:
    """Returns masks with exactly the lengths `want`: in each row the highest of `ranking` stay, ties: the lower first.

    Args:
        config: the model.
        want: every length of the target, see `jaxpt.reshape.target.lengths`.
        ranking: by axis, larger meaning more important.
        values: what the gates of those that stay are; None: 1.
    """
    out = {}
    for axis, rank in ranking.items():
        rows, keep = rows_of(config, axis, np.asarray(rank, np.float64), want)
        left = np.zeros(rows.shape, np.float32)
        np.put_along_axis(left, top(rows, keep), 1.0, axis=-1)
        left = left.reshape(rank.shape)
        out[axis] = left if values is None else np.where(left > 0, np.asarray(values[axis], np.float32), 0)
    return out


def kept_positions(config: ModelConfig, masks: HostGates) -> Kept:
    """Returns the positions that masks leave, as a cut takes them; rows of layers without an axis keep the first."""
    count = len(config.layers)

    def index(axis: str) -> np.ndarray | None:
        if axis not in masks:
            return None
        left = np.asarray(masks[axis]) > 0
        keep = int(left.reshape(-1, left.shape[-1])[0].sum())
        found = np.broadcast_to(np.arange(keep), (count, *left.shape[1:-1], keep)).copy()
        found[list(layers_with(config, axis))] = np.nonzero(left)[-1].reshape(*left.shape[:-1], keep)
        return None if keep == left.shape[-1] else found

    embed, layers = masks.get("embed"), masks.get("layers")
    kv = index("kv_heads")
    groups = np.broadcast_to(np.arange(config.kv_heads), (count, config.kv_heads)) if kv is None else kv
    heads = None if kv is None else with_groups(config, groups)
    if (inside := index("heads")) is not None:
        inside = inside.reshape(count, config.kv_heads, -1)
        heads = np.take_along_axis(inside, groups[..., None], axis=1).reshape(count, -1)
    whole = embed is None or np.all(np.asarray(embed) > 0)
    return Kept(
        layers=np.arange(count) if layers is None else np.flatnonzero(np.asarray(layers) > 0),
        embed=None if whole else np.flatnonzero(np.asarray(embed) > 0),
        kv_heads=kv,
        heads=heads,
        mlp=index("mlp"),
        **{axis: index(axis) for axis in MOE_LENGTHS},
    )


def fold(config: ModelConfig, masks: HostGates) -> Rewrite | None:
    """Returns the rewrite that multiplies gates into the weights, once; None where all are 0 or 1.

    Afterwards masks of 0 and 1 compute what `masks` did. Positions that they leave out stay as they are: a cut follows.
    Where the token table is also the head, the final norm is divided by what multiplies the table.
    """
    if all(np.isin(np.asarray(m), (0.0, 1.0)).all() for m in masks.values()):
        return None
    values = {axis: np.where(np.asarray(m) > 0, m, 1).astype(np.float32) for axis, m in masks.items()}
    specs = flatten(param_specs(config))
    rules = {path: (Term(path, *_folding(config, path, spec, values)),) for path, spec in specs.items()}
    why = "gates are multiplied into the weights"
    return Rewrite(config, config, rules, {"op": "fold_masks", "options": {"axes": sorted(masks)}, "why": why})


def _folding(
    config: ModelConfig, path: str, spec: ParamSpec, values: HostGates
) -> tuple[tuple[Op, ...], np.ndarray | None]:
    """Ops and input layers of one parameter."""
    if not spec.stacked:
        return _outside(config, spec, values), None
    structure, name = path.split("/")[1:]
    of = list(config.layers_of(structure))
    ops: list[Op] = []
    for f in factors(config, block_specs(config, structure), name):
        if f.left or f.axis not in values:
            continue
        rows = values[f.axis]
        if f.axis != "embed":
            have = list(layers_with(config, f.axis))
            rows = np.repeat(rows[[have.index(l) for l in of]], f.each, axis=1) if f.dims else rows[of]
        dim: Any = None if not f.dims else f.dims[0] if len(f.dims) == 1 else f.dims
        ops.append(Scale(dim, rows, float(f.offset), per_layer=f.axis != "embed"))
    return tuple(ops), copy(path, spec).layers


def _outside(config: ModelConfig, spec: ParamSpec, values: HostGates) -> tuple[Op, ...]:
    """Ops of a parameter outside the blocks."""
    if "embed" not in values or "embed" not in spec.axes:
        return ()
    dim = spec.axes.index("embed")
    if spec.residual == "writes":
        return (Scale(dim, values["embed"]),)
    if spec.gain and config.tie_embeddings:
        return (Scale(dim, 1 / values["embed"], float(spec.gain_offset)),)
    return ()


def shear(config: ModelConfig, masks: HostGates) -> list[Rewrite]:
    """Returns what makes the smaller model out of a model and its final masks: gates folded in, then the cut.

    The cut model computes what the model computes under these masks (`jaxpt.models.masks.with_mask`).
    """
    folded = fold(config, masks)
    kept = kept_positions(config, masks)
    want = lengths_of(config) | {"layers": len(kept.layers)}
    for axis in ("embed", "kv_heads", "heads", "mlp", *MOE_LENGTHS):
        index = getattr(kept, axis)
        want |= {} if index is None else {axis: int(index.shape[-1])}
    why = "parts of the model are left out, as its masks say; under these masks it computes the same"
    entry: LineageEntry = {"op": "shear", "options": {"target": want}, "tokens": 0, "flops": 0.0, "why": why}
    rewrite = cut(config, want, kept).with_entry(**entry)
    return [*([] if folded is None else [folded]), rewrite]


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _nll(config: ModelConfig, compute: Compute, params: Params, rows: Mapping[str, jax.Array]) -> jax.Array:
    """Weighted sum of nats, and of weights, `[2]`."""
    x = forward(config, params, rows["tokens"], rows["segment_ids"], rows["positions"], compute)
    nll, _ = from_logits(x, rows["targets"])
    weights = rows["loss_weights"]
    return jnp.stack([jnp.sum(nll * weights), jnp.sum(weights)])


def masked_loss(
    config: ModelConfig,
    params: Params,
    masks: HostGates,
    batches: Sequence[Rows[np.ndarray]],
    compute: Compute = Compute(),  # noqa: B008
) -> float:
    """Returns the weighted mean next-token loss in nats of a model in memory under masks."""
    masked = with_mask(params, masks)
    rows = [{key: jnp.asarray(b[key]) for key in kinds(Rows)} for b in batches]  # type: ignore[literal-required]
    nats, weight = np.sum([np.asarray(_nll(config, compute, masked, row), np.float64) for row in rows], axis=0)
    return float(nats / weight)
