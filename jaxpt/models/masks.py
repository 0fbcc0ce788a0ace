"""A model under masks: gates on named axes, with which the forward pass computes what a smaller model would.

A mask is a branch `"mask"` of the parameters, a dict from axis to gates, float32 and not below 0: 0 leaves a position
out, 1 changes nothing. Rows are those of the layers that have the axis, in order:

    embed [D]    layers [L]    kv_heads [L, K] (whole groups)    heads [L, H]
    mlp [dense layers, F]    experts [mixtures, E]    expert_mlp [mixtures, E, F]    shared_mlp [mixtures, F]

The forward pass asks for three things. `masked_layer` transforms one layer's leaves inside the scan over layers, so
that no masked copy of the model exists: a gate multiplies what reads its axis (`mlp`: down; heads: o), those of `embed`
and `layers` a branch's last writer, which is its post-norm's gain where there is one (offset included); of the token
table the rows that are read. Norms along a gated axis count the positions that are left instead of all of them. Routers
do not see experts that are left out. With gates of 0 and 1 the result is the function of the model cut along these axes
(unless experts have a capacity, which follows from their number).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Array, Params, branch
from jaxpt.models.specs import ParamSpec, block_specs

MASK = "mask"  # the branch of the parameters
ELEMENTWISE = ("mul", "add", "sub", "convert_element_type")  # what `masked_layer` and a block do to leaves
Gates = Mapping[str, jax.Array]  # of one layer or of stacked ones, by axis
NEURONS = {"mlp": "dense", "expert_mlp": "moe", "shared_mlp": "moe"}  # axis -> structure of the layers that have it


class LayerMask(NamedTuple):
    """One layer under its gates: its leaves; how many positions each of its norms counts, by the norm's name, where
    that is not their length; which experts `[E]` may be chosen (None: all)."""

    leaves: Mapping[str, jax.Array]
    widths: Mapping[str, jax.Array]
    experts: jax.Array | None


def gate_axes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the axes of a model that can have gates, with the shapes of their gates."""
    count = {"layers": len(config.layers), **{s: len(config.layers_of(s)) for s in ("dense", "moe")}}
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (config.embed,),
        "layers": (count["layers"],),
        "kv_heads": (count["layers"], config.kv_heads),
        "heads": (count["layers"], config.heads),
        "mlp": (count["dense"], config.mlp),
    }
    if (moe := config.moe) is not None:
        shapes |= {"experts": (count["moe"], moe.experts), "expert_mlp": (count["moe"], moe.experts, moe.mlp)}
        shapes |= {"shared_mlp": (count["moe"], moe.shared_mlp)}
    return {axis: shape for axis, shape in shapes.items() if math.prod(shape)}


def layers_with(config: ModelConfig, axis: str) -> tuple[int, ...]:
    """Returns the global numbers of the layers that the rows of an axis's gates are of."""
    structure = NEURONS.get(axis, "moe" if axis == "experts" else None)
    return tuple(range(len(config.layers))) if structure is None else tuple(config.layers_of(structure))


def stacked_gates(config: ModelConfig, params: Params) -> dict[str, Gates] | None:
    """Returns the gates by structure, stacked as its leaves are; None where the parameters hold no mask."""
    if MASK not in params:
        return None
    mask = branch(params, MASK)
    out: dict[str, Gates] = {}
    for structure in ("dense", "moe"):
        of = tuple(config.layers_of(structure))
        rows = {axis: layers_with(config, axis) for axis in mask if axis != "embed"}
        out[structure] = {
            axis: _rows(mask[axis], [have.index(l) for l in of])
            for axis, have in rows.items()
            if of and set(of) <= set(have)
        }
    return out


def _rows(gates: Any, places: list[int]) -> jax.Array:
    gates = jnp.asarray(gates)
    return gates if places == list(range(gates.shape[0])) else gates[np.array(places)]


def stream_gates(params: Params) -> jax.Array | None:
    """Returns the gates of the residual stream `[D]`; None where there are none."""
    gates = branch(params, MASK).get("embed") if MASK in params else None
    return None if gates is None else jnp.asarray(gates)


def counted(gates: jax.Array | None) -> jax.Array | None:
    """Returns how many positions of a norm along `gates` count, a float32 scalar without gradient."""
    return None if gates is None else jnp.maximum(jnp.sum(_left(gates)), 1.0)


def _left(gates: jax.Array) -> jax.Array:
    """1 where a position is left, 0 where it is left out; no gradient."""
    return jax.lax.stop_gradient((gates > 0).astype(jnp.float32))


def masked_layer(
    config: ModelConfig, structure: str, leaves: Mapping[str, jax.Array], gates: Gates, stream: jax.Array | None
) -> LayerMask:
    """Returns one layer under its gates.

    Args:
        config: the model.
        structure: "dense" or "moe".
        leaves: its parameters, as `block_specs` declares them (no `layers` axis).
        gates: of this layer by axis: `layers` a scalar, the others without their first dimension.
        stream: the gates of `embed`, `[D]`, or None.
    """
    specs = block_specs(config, structure)
    gates = {axis: gate.astype(jnp.float32) for axis, gate in gates.items()}
    if stream is not None:
        gates["embed"] = stream.astype(jnp.float32)
    out = {name: _apply(leaf, factors(config, specs, name), gates) for name, leaf in leaves.items()}
    widths = {name: width for name, spec in specs.items() if (width := _width(config, spec, gates)) is not None}
    experts = gates.get("experts")
    if experts is not None:
        experts = (experts > 0) | ~jnp.any(experts > 0)  # where none is left its output is zero, whichever is chosen
    return LayerMask(out, widths, experts)


class Factor(NamedTuple):
    """Gates that multiply a leaf: `dims` are the dimensions of the leaf that the gates' own follow, `each` how many
    entries of the leaf's dimension a gate is for (query heads of a kv head). `left` means that only whether a gate is
    above 0 counts: what a norm will see. `offset` is added to the leaf before and taken away after."""

    axis: str
    dims: tuple[int, ...]
    each: int = 1
    left: bool = False
    offset: int = 0

    def spread(self, gates: jax.Array, ndim: int) -> jax.Array:
        """Returns the gates of one layer so that they broadcast against a leaf of `ndim` dimensions."""
        wide: jax.Array = jnp.repeat(gates, self.each, axis=0) if self.each > 1 else gates
        shape = [1] * ndim
        for dim, length in zip(self.dims, wide.shape):
            shape[dim] = length
        return wide.reshape(shape)


def factors(config: ModelConfig, specs: Mapping[str, ParamSpec], name: str) -> list[Factor]:
    """Returns which gates multiply the leaf `name` of a layer, wherever there are such gates.

    Args:
        config: the model.
        specs: of the layer's leaves, as `block_specs` returns them.
        name: the leaf.
    """
    spec = specs[name]
    at: Callable[..., tuple[int, ...]] = lambda *axes: tuple(spec.axes.index(a) for a in axes)  # noqa: E731
    out = [Factor(axis, at(axis)) for axis in ("heads", "mlp", "shared_mlp") if axis in spec.fan_in_axes]
    if "heads" in spec.fan_in_axes:
        out.append(Factor("kv_heads", at("heads"), config.group))
    if "expert_mlp" in spec.fan_in_axes:
        out += [Factor("experts", at("experts")), Factor("expert_mlp", at("experts", "expert_mlp"))]
    if spec.residual == "writes":
        post = any(s.gain and s.residual == "writes" for s in specs.values())
        last = spec.gain or not post
        out.append(Factor("embed", at("embed"), left=not last, offset=spec.gain_offset))
        if last:
            out.append(Factor("layers", (), offset=spec.gain_offset))
    if config.qk_norm == "full" and spec.rotary and not spec.gain:  # the norm across heads sees them
        if "heads" in spec.axes:
            out += [Factor("heads", at("heads"), left=True), Factor("kv_heads", at("heads"), config.group, left=True)]
        else:
            out.append(Factor("kv_heads", at("kv_heads"), left=True))
    return out


def _apply(leaf: jax.Array, wanted: list[Factor], gates: Gates) -> jax.Array:
    there = [f for f in wanted if f.axis in gates]
    if not there:
        return leaf
    offset = there[0].offset
    out = leaf if offset == 0 else leaf + offset
    for f in there:  # one by one, so that each product has the leaf's shape, which `not_masked_leaves` knows
        out = out * f.spread(_left(gates[f.axis]) if f.left else gates[f.axis], leaf.ndim)
    return (out if offset == 0 else out - offset).astype(leaf.dtype)


def not_masked_leaves(config: ModelConfig) -> Callable[..., bool]:
    """Returns the remat policy that saves everything but what `masked_layer` makes of leaves, and their casts.

    The backward pass then multiplies a layer's leaves again, elementwise; saved, they would be a copy of the model.
    """
    tables = {s: block_specs(config, s) for s in ("dense", "moe") if config.layers_of(s)}
    shapes = {t[n].shape for s, t in tables.items() for n in t if len(t[n].shape) > 1 and factors(config, t, n)}

    def policy(primitive: Any, *operands: Any, **options: Any) -> bool:
        return primitive.name not in ELEMENTWISE or not any(getattr(x, "shape", ()) in shapes for x in operands)

    return policy


def _width(config: ModelConfig, spec: ParamSpec, gates: Gates) -> jax.Array | None:
    """How many positions a norm counts, where some of them are gated; None: all of its length."""
    if not spec.gain:
        return None
    if "embed" in spec.axes:
        return counted(gates.get("embed"))
    kv, heads = gates.get("kv_heads"), gates.get("heads")
    if "heads" in spec.axes and heads is not None:
        whole = heads if kv is None else heads * jnp.repeat(kv, config.group, axis=0)
    elif ("heads" in spec.axes or "kv_heads" in spec.axes) and kv is not None:
        whole = kv if "kv_heads" in spec.axes else jnp.repeat(kv, config.group, axis=0)
    else:
        return None
    return jnp.maximum(jnp.sum(_left(whole)), 1.0) * config.head_dim


def with_mask(params: Params, mask: Mapping[str, Array]) -> Params:
    """Returns the parameters under a mask; without gates the parameters alone."""
    return {**params, MASK: mask} if mask else params
