"""The algebra: select, permute, duplicate, pad, mask and scale along a named axis of a whole model, as rewrites.

Nothing here knows a parameter's name. The axis table says which dimensions of which parameters an axis names and what
they do there, and each parameter follows by its role:

- *reader*: the axis is contracted with the input (`fan_in_axes`): `down` reads `mlp`, `o` reads `heads`;
- *gain*: a norm's gain;
- *writer*: everything else (what the axis is the output of, biases included).

An `AxisMap` states, for one axis, where each new position comes from (-1: nowhere, it is zero) and one factor per
role. `rewrite_axes` turns maps into a `Rewrite`. Global axes (`embed`, `vocab`) have one index set `[k]`; all others
one per layer, `[L, k]` (a single `[k]` is used for every layer). `head_dim` is two axes here, because RoPE rotates
pairs: `rotary_dim` (q, k, their biases and gains) and `head_dim` (v, o). Query heads are kv-major; what happens to
`kv_heads` happens to their whole groups.

Function-preserving growth along `embed` changes the norms' statistic, so gains and `norm_eps` follow: with D > d
positions of mean square d/D, gain' = gain sqrt(d/D) and eps' = eps d/D.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig, ParamSpec, flatten, param_specs
from jaxpt.models.specs import GLOBAL_AXES
from jaxpt.reshape.ops import Op, Scale, Take
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite, Term, index_digest

SIZES = {
    "embed": "embed",
    "vocab": "vocab_size",
    "heads": "heads",
    "kv_heads": "kv_heads",
    "rotary_dim": "head_dim",
    "head_dim": "head_dim",
    "mlp": "mlp",
    "experts": "moe.experts",
    "expert_mlp": "moe.mlp",
    "shared_mlp": "moe.shared_mlp",
}  # axis -> the field of ModelConfig that holds its length

# head_dim before heads, expert_mlp before experts: index sets by head or expert are numbered in the source's
ORDER = ("vocab", "embed", "rotary_dim", "head_dim", "kv_heads", "heads", "expert_mlp", "experts", "mlp", "shared_mlp")

DUPLICABLE = ("embed", "mlp", "expert_mlp", "shared_mlp", "heads", "kv_heads")
MASKABLE = ("embed", "heads", "kv_heads", "mlp", "expert_mlp", "shared_mlp")
PADDABLE = ("embed", "vocab", "mlp", "expert_mlp", "shared_mlp", "kv_heads")


@dataclass(frozen=True, eq=False)
class AxisMap:
    """Where the positions of an axis come from, and the factor each role gets there.

    `index`: `[k]` for a global axis, `[L, k]` for a per-block one (L layers of the *source*), `[L, K, k]` for
    `head_dim` by kv head, `[L, E, k]` for `expert_mlp` by expert; None leaves the axis as it is. Factors are numbers or
    arrays shaped like `index`'s result.
    """

    index: np.ndarray | None = None
    reader: npt.ArrayLike = 1.0
    writer: npt.ArrayLike = 1.0
    gain: npt.ArrayLike = 1.0


def axis_in(spec: ParamSpec, dim: int) -> str:
    """Returns the axis that dimension `dim` of a parameter belongs to, `rotary_dim` set apart from `head_dim`."""
    name = spec.axes[dim]
    return "rotary_dim" if name == "head_dim" and spec.rotary else name


def role(spec: ParamSpec, axis: str) -> str:
    """Returns what a parameter does along `axis`: "reader", "gain" or "writer"."""
    if spec.gain:
        return "gain"
    return "reader" if axis.replace("rotary_dim", "head_dim") in spec.fan_in_axes else "writer"


def rewrite_axes(
    source: ModelConfig,
    maps: Mapping[str, AxisMap],
    *,
    layers: Sequence[int] | None = None,
    changes: Mapping[str, object] | None = None,
    entry: LineageEntry | None = None,
    fresh: Mapping[str, tuple[str, ...]] | None = None,
    seed: int = 0,
) -> Rewrite:
    """Returns the rewrite that applies `maps` to every parameter through the axis table.

    Args:
        source: the model that is changed.
        maps: axis name to map; all are applied at once, each in the source's coordinates.
        layers: global numbers of the source's layers that the target has, in order, repeats allowed; None: all.
        changes: fields of the target config besides the lengths that follow from `maps`.
        entry: the lineage entry.
        fresh: axis to the roles whose new positions (-1) are drawn as `init_params` draws them, instead of zero.
        seed: of fresh values.
    """
    kept = np.arange(len(source.layers)) if layers is None else np.asarray(layers, np.int64)
    sizes = {SIZES[a]: int(m.index.shape[-1]) for a, m in maps.items() if a in SIZES and m.index is not None}
    stack = tuple(source.layers[i] for i in kept)
    changes = dict(changes or {})
    if source.moe is not None:
        inner: dict[str, Any] = {n.removeprefix("moe."): sizes.pop(n) for n in list(sizes) if n.startswith("moe.")}
        changes.setdefault("moe", replace(source.moe, **inner))
    target = source.replace(**{**sizes, "layers": stack, **changes})
    old = flatten(param_specs(source))
    rules: dict[str, ParamRule] = {}
    for path, spec in flatten(param_specs(target)).items():
        at, places = _layers_of(source, target, kept, path, spec)
        ops, new = _leaf_ops(old[path], maps, at, fresh or {})
        rule: ParamRule = (Term(path, tuple(ops), places),)
        if new:
            rule = (*rule, Term(None, tuple(new), None, seed))
        rules[path] = rule
    return Rewrite(source, target, rules, LineageEntry(**(entry or {})))


def _layers_of(
    source: ModelConfig, target: ModelConfig, kept: np.ndarray, path: str, spec: ParamSpec
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """For a stacked parameter: the source's global layer of each output layer, and its place in the source's stack."""
    if not spec.stacked:
        return None, None
    structure = path.split("/")[1]
    at = kept[list(target.layers_of(structure))]
    stack = source.layers_of(structure)
    return at, np.array([stack.index(int(g)) for g in at])


def _leaf_ops(
    spec: ParamSpec, maps: Mapping[str, AxisMap], at: np.ndarray | None, fresh: Mapping[str, tuple[str, ...]]
) -> tuple[list[Op], list[Op]]:
    """Ops of one parameter, and the masks that keep fresh values to its new positions (empty: none are wanted)."""
    ops: list[Op] = []
    masks: list[Op] = []
    skip = int(spec.stacked)
    for axis in ORDER:
        for dim in range(skip, len(spec.axes)):
            if axis_in(spec, dim) != axis or axis not in maps:
                continue
            m = maps[axis]
            if m.index is not None and not _is_identity(m.index, spec.shape[dim]):
                ops.append(_take(spec, m.index, dim, at, skip))
            factor = _per_layer(np.asarray(getattr(m, role(spec, axis)), np.float32), axis, at)
            if not np.all(factor == 1):
                whole = factor.ndim == int(at is not None and axis not in GLOBAL_AXES)
                ops.append(
                    Scale(
                        None if whole else dim - skip,
                        factor,
                        float(spec.gain_offset),
                        per_layer=at is not None and axis not in GLOBAL_AXES,
                    )
                )
            if m.index is not None and role(spec, axis) in fresh.get(axis, ()) and np.any(m.index < 0):
                new = _per_layer((m.index < 0).astype(np.float32), axis, at)
                masks.append(Scale(dim - skip, new, per_layer=at is not None and axis not in GLOBAL_AXES))
    return ops, masks


def _take(spec: ParamSpec, index: np.ndarray, dim: int, at: np.ndarray | None, skip: int) -> Take:
    if index.ndim < 3:
        per_layer = index.ndim == 2
        return Take(dim - skip, index[at] if per_layer else index, per_layer=per_layer)
    by = next(i for i, a in enumerate(spec.axes) if a in ("heads", "kv_heads", "experts"))
    rows = np.repeat(index[at], spec.shape[by] // index.shape[1], axis=1)
    return Take(dim - skip, rows, by - skip, per_layer=True)


def _per_layer(factor: np.ndarray, axis: str, at: np.ndarray | None) -> np.ndarray:
    """Picks the rows of a per-block factor for a stack's layers; a single number serves all."""
    if axis in GLOBAL_AXES or at is None:
        return factor
    if factor.ndim == 0:
        return np.broadcast_to(factor, (len(at),))
    return factor[at]


def _is_identity(index: np.ndarray, length: int) -> bool:
    return index.shape[-1] == length and bool(np.all(index == np.arange(length)))


def axis_size(config: ModelConfig, axis: str) -> int:
    """Returns the length of a named axis.

    Raises:
        JaxptError: no such axis, with the nearest name.
    """
    if axis not in SIZES:
        raise JaxptError(f"there is no axis {axis!r}{nearest(axis, SIZES)}; the axes are {', '.join(SIZES)}")
    if SIZES[axis].startswith("moe.") and config.moe is None:
        raise JaxptError(f"this model has no mixture-of-experts layers, so no axis {axis!r}")
    return int(operator.attrgetter(SIZES[axis])(config))


def checked_index(config: ModelConfig, axis: str, index: npt.ArrayLike, *, new: bool = False) -> np.ndarray:
    """Returns an index set in full form, `[k]` or `[L, k]`, after checking its rank and range.

    Raises:
        JaxptError: a wrong rank, a position outside the axis, or head sets that differ in size between kv heads.
    """
    size, index = axis_size(config, axis), np.asarray(index, np.int64)
    if axis not in GLOBAL_AXES and index.ndim == 1:
        index = np.broadcast_to(index, (len(config.layers), len(index)))
    want = (1,) if axis in GLOBAL_AXES else (2, 3) if axis in ("head_dim", "expert_mlp") else (2,)
    if index.ndim not in want or (index.ndim > 1 and len(index) != len(config.layers)):
        raise JaxptError(f"{axis}: an index set of shape {index.shape} does not fit {len(config.layers)} layers")
    if index.size == 0 or index.max() >= size or index.min() < (-1 if new else 0):
        raise JaxptError(f"{axis}: the index set names a position outside 0 … {size - 1}, or none at all")
    if axis == "heads" and not new:
        group = index // config.group
        per = index.shape[1] // config.kv_heads
        if per * config.kv_heads != index.shape[1] or np.any(group != np.repeat(np.arange(config.kv_heads), per)):
            raise JaxptError("heads: keep equally many query heads of each kv head, in the order of the kv heads")
    return index


def with_groups(config: ModelConfig, kv: np.ndarray) -> np.ndarray:
    """Returns the query-head index sets `[L, K' G]` of whole groups, for kv-head index sets `[L, K']` (-1 stays -1)."""
    g = config.group
    heads = kv[..., None] * g + np.arange(g)
    return np.where(kv[..., None] < 0, -1, heads).reshape(*kv.shape[:-1], -1)


def select(config: ModelConfig, axis: str, index: npt.ArrayLike) -> Rewrite:
    """Returns the rewrite that keeps the positions `index` of `axis`, in that order, wherever the axis occurs.

    Args:
        config: the source.
        axis: `embed`, `vocab`, `heads`, `kv_heads` (whole groups), `mlp`, `head_dim` (v and o) or `rotary_dim`.
        index: `[k]` or `[L, k]`.

    Raises:
        JaxptError: the index set does not fit the axis.
    """
    index = checked_index(config, axis, index)
    maps = {axis: AxisMap(index)}
    if axis == "kv_heads":
        maps["heads"] = AxisMap(with_groups(config, index))
    entry: LineageEntry = {
        "op": "select",
        "options": {"axis": axis, "kept": int(index.shape[-1])},
        "indices": index_digest(index),
    }
    return rewrite_axes(config, maps, entry=entry)


def permute(config: ModelConfig, axis: str, order: npt.ArrayLike) -> Rewrite:
    """Returns the rewrite that reorders an axis; the function stays the same. `order` is a permutation, as in `select`.

    Raises:
        JaxptError: `order` is not a permutation of the axis.
    """
    order = checked_index(config, axis, order)
    if np.any(np.sort(order, -1) != np.arange(axis_size(config, axis))):
        raise JaxptError(f"{axis}: the order is not a permutation of its {axis_size(config, axis)} positions")
    rewrite = select(config, axis, order)
    return rewrite.with_entry(op="permute")


def _counts(index: np.ndarray) -> np.ndarray:
    """How often each position's source occurs in its index set, `[k]` or `[L, k]`; 1 for new positions."""
    rows = index.reshape(-1, index.shape[-1])
    out = np.stack([np.where(r < 0, 1, (r[:, None] == r[None, :]).sum(1)) for r in rows])
    return out.reshape(index.shape).astype(np.float64)


def _stretched(config: ModelConfig, size: int) -> tuple[float, dict[str, object]]:
    """Factor of the gains along `embed`, and the config change, when its length becomes `size` with the same sum."""
    ratio = config.embed / size
    return ratio**0.5, _norm_eps(config, ratio)


def _norm_eps(config: ModelConfig, ratio: float) -> dict[str, object]:
    """The config change that multiplies `norm_eps`, leaving the queries' and keys' norm as it was."""
    own = config.norm_eps if config.qk_norm_eps is None and config.qk_norm != "none" else config.qk_norm_eps
    return {"norm_eps": config.norm_eps * ratio, "qk_norm_eps": own}


def duplicate(config: ModelConfig, axis: str, index: npt.ArrayLike) -> Rewrite:
    """Returns the rewrite that repeats positions of an axis and shares their effect, so that the function stays.

    Along `embed` writers and readers are divided by sqrt(C) for C copies (uneven counts included); along the others
    (`kv_heads`: whole groups) readers are divided by C. Where queries and keys are normalised across heads, uneven
    copies of groups follow the rule of `embed`.

    Args:
        config: the source.
        axis: one of `DUPLICABLE`; `heads` within each group, kv-major.
        index: `[k]` or `[L, k]`, every position of the source at least once.

    Raises:
        JaxptError: a position is missing, or the axis cannot be duplicated.
    """
    index = checked_index(config, axis, index)
    if axis not in DUPLICABLE:
        raise JaxptError(f"{axis} cannot be duplicated; {', '.join(DUPLICABLE)} can")
    for row in index.reshape(-1, index.shape[-1]):
        if len(np.unique(row)) != axis_size(config, axis):
            raise JaxptError(f"{axis}: duplication must keep every one of its {axis_size(config, axis)} positions")
    count = _counts(index)
    entry: LineageEntry = {
        "op": "duplicate",
        "options": {"axis": axis, "size": int(index.shape[-1])},
        "indices": index_digest(index),
    }
    entry |= {"exact": True, "why": f"copies share the effect of the position of {axis} that they copy"}
    if axis == "embed":
        gain, changes = _stretched(config, len(index))
        return rewrite_axes(
            config, {axis: AxisMap(index, count**-0.5, count**-0.5, gain)}, changes=changes, entry=entry
        )
    maps, changes = {axis: AxisMap(index, 1 / count)}, {}
    even = bool(np.all(count == count.flat[0]))
    if config.qk_norm == "full" and axis == "heads" and not even:
        raise JaxptError("heads: with qk_norm='full' only an even number of copies of each keeps the norm across heads")
    if config.qk_norm == "full" and axis == "kv_heads" and not even:
        ratio = config.kv_heads / index.shape[-1]
        eps = config.norm_eps if config.qk_norm_eps is None else config.qk_norm_eps
        changes = {"qk_norm_eps": eps * ratio}
        maps[axis] = AxisMap(index, count**-0.5, count**-0.5, (count * ratio) ** 0.5)
    if axis == "kv_heads":
        whole, per_kv = with_groups(config, index), maps[axis]
        sides = [
            np.repeat(s, config.group, -1) if np.ndim(s) else s for s in (per_kv.reader, per_kv.writer, per_kv.gain)
        ]
        maps["heads"] = AxisMap(whole, *(sides if changes else (1 / np.repeat(count, config.group, axis=-1),)))
    return rewrite_axes(config, maps, changes=changes, entry=entry)


def pad(config: ModelConfig, axis: str, size: int, *, fresh: bool = True, seed: int = 0) -> Rewrite:
    """Returns the rewrite that appends positions to an axis without changing the function.

    New positions of what would let them act are zero (along `embed` the writers, along `mlp` and `kv_heads` the
    readers); with `fresh` the other side is drawn at random, so that gradients reach them and no two are alike.

    Args:
        config: the source.
        axis: one of `PADDABLE`; `kv_heads` by whole groups.
        size: the new length.
        fresh: draw the other side instead of leaving it zero.
        seed: of the draw.

    Raises:
        JaxptError: a smaller size, or an axis that cannot be padded.
    """
    old = axis_size(config, axis)
    if axis not in PADDABLE:
        raise JaxptError(
            f"{axis} cannot be padded; {', '.join(PADDABLE)} can (heads, head_dim: jaxpt.reshape.grow_heads)"
        )
    if size < old:
        raise JaxptError(f"target.{axis} is {size}, smaller than the source's {old}; pad only makes an axis longer")
    index = np.where(np.arange(size) < old, np.arange(size), -1)
    maps = {axis: AxisMap(index if axis in GLOBAL_AXES else np.broadcast_to(index, (len(config.layers), size)))}
    changes: dict[str, object] = {}
    if axis == "embed":
        gain, changes = _stretched(config, size)
        maps[axis] = replace(maps[axis], gain=gain)
    if axis == "kv_heads":
        if config.qk_norm == "full":
            raise JaxptError(
                "kv_heads: with qk_norm='full' new heads would change the norm across heads; duplicate them"
            )
        full = maps[axis].index
        assert full is not None
        maps["heads"] = AxisMap(with_groups(config, full))
    side = ("reader", "gain") if axis == "embed" else ("writer",)
    entry: LineageEntry = {"op": "pad", "options": {"axis": axis, "size": size, "fresh": fresh}, "seed": seed}
    entry |= {"exact": True, "why": f"new positions of {axis} add zero"}
    return rewrite_axes(
        config, maps, changes=changes, entry=entry, fresh=dict.fromkeys(maps, side) if fresh else None, seed=seed
    )


def mask(config: ModelConfig, axis: str, keep: npt.ArrayLike) -> Rewrite:
    """Returns the rewrite that zeroes all positions of an axis outside `keep`, at the same shape.

    The result computes what `select(config, axis, keep)` computes: the norms' gains and eps are corrected for the
    positions that no longer count.

    Args:
        config: the source.
        axis: one of `MASKABLE`. Whole experts cannot be: what is left of one would still share in the router's softmax.
        keep: kept positions, `[k]` or `[L, k]`, as in `select`.

    Raises:
        JaxptError: as `select`; or a norm shared by axes cut differently, whose one eps cannot express the mask.
    """
    keep = checked_index(config, axis, keep)
    if axis not in MASKABLE or keep.ndim > 2:
        what = axis if axis not in MASKABLE else f"{axis} expert by expert"
        raise JaxptError(f"{what} cannot be masked; {', '.join(MASKABLE)} can")
    size = axis_size(config, axis)
    changes: dict[str, object] = {}
    ratio = keep.shape[-1] / size
    gain = 1.0
    if axis == "embed":
        gain, changes = ratio**0.5, _norm_eps(config, ratio)
    elif axis in ("heads", "kv_heads") and config.qk_norm == "full":
        if axis == "heads":
            raise JaxptError(
                "heads: with qk_norm='full' masking query heads alone needs two qk_norm_eps; mask kv_heads"
            )
        eps = config.norm_eps if config.qk_norm_eps is None else config.qk_norm_eps
        gain, changes = ratio**0.5, {"qk_norm_eps": eps * ratio}
    maps = {axis: _mask_map(keep, size, gain)}
    if axis == "kv_heads":
        maps["heads"] = _mask_map(with_groups(config, keep), config.heads, gain)
    entry: LineageEntry = {
        "op": "mask",
        "options": {"axis": axis, "kept": int(keep.shape[-1])},
        "indices": index_digest(keep),
    }
    return rewrite_axes(config, maps, changes=changes, entry=entry)


def _mask_map(keep: np.ndarray, size: int, gain: float) -> AxisMap:
    rows = keep.reshape(-1, keep.shape[-1])
    on = np.stack([np.isin(np.arange(size), r) for r in rows]).astype(np.float32).reshape(*keep.shape[:-1], size)
    return AxisMap(None, on, on, on * np.float32(gain))


def scale(
    config: ModelConfig,
    axis: str,
    *,
    reader: npt.ArrayLike = 1.0,
    writer: npt.ArrayLike = 1.0,
    gain: npt.ArrayLike = 1.0,
) -> Rewrite:
    """Returns the rewrite that multiplies what reads, writes and normalises `axis` by numbers (or one per position)."""
    axis_size(config, axis)
    entry: LineageEntry = {"op": "scale", "options": {"axis": axis}, "indices": index_digest(reader, writer, gain)}
    return rewrite_axes(config, {axis: AxisMap(None, reader, writer, gain)}, entry=entry)
