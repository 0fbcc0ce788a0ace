"""The axis table: every parameter declared once, with the meaning of each of its dimensions."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Array, Params, Tree

T = TypeVar("T")
U = TypeVar("U")

GLOBAL_AXES = ("embed", "vocab")  # one index set for the whole model; every other axis has one per layer
Residual = Literal["reads", "writes", "none"]


@dataclass(frozen=True)
class ParamSpec:
    """What one parameter is: the only place where its dimensions get their meaning.

    `axes` names each dimension. `fan_in_axes` are contracted with the input, `fan_out_axes` are the output.
    `residual` says whether the parameter reads from or writes to the residual stream along `embed`. `gain_offset` is
    added to a norm gain before it multiplies (1 for Gemma). `init` is "normal" with deviation `init_std`, "zeros" or
    "ones" (the value at which a gain does nothing, offset included). `decay` says whether weight decay applies.
    `state` marks what is moved by a rule of its own and never by a gradient (a router's selection bias).
    `gain` marks a norm's gain; `rotary` that RoPE rotates its `head_dim` in pairs (q, k, their biases and gains).
    `ffn` says which matrix of a gated feed-forward network it is, dense, of experts or shared.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    fan_in_axes: tuple[str, ...] = ()
    fan_out_axes: tuple[str, ...] = ()
    residual: Residual = "none"
    gain_offset: int = 0
    init: Literal["normal", "zeros", "ones"] = "normal"
    init_std: float = 0.02
    decay: bool = True
    gain: bool = False
    rotary: bool = False
    state: bool = False
    ffn: Literal["gate", "up", "down"] | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def stacked(self) -> bool:
        """Whether the first dimension counts layers."""
        return self.axes[:1] == ("layers",)

    @property
    def pieces(self) -> tuple[int, ...]:
        """Lengths of the leading dimensions that are stored and moved entry by entry: layers, then routed experts."""
        if not self.stacked:
            return ()
        return self.shape[: 2 if self.axes[1:2] == ("experts",) and len(self.axes) > 2 else 1]

    def dims(self, axis: str) -> tuple[int, ...]:
        """Returns the dimensions that `axis` names, as positions in `shape`."""
        return tuple(i for i, name in enumerate(self.axes) if name == axis)

    def fan_in(self) -> int:
        """Length of what is contracted with the input; 1 where nothing is."""
        return math.prod(self.shape[self.axes.index(a)] for a in self.fan_in_axes)


Specs = Tree[ParamSpec]  # an axis table


def param_specs(config: ModelConfig) -> Specs:
    """Returns the model's parameters as a nested dict of `ParamSpec`: the tree, the shapes and what they mean.

    Matrices start normal with deviation 0.02; those that write to the residual stream (o, down) with
    0.02 / sqrt(2 L) so that the stream's variance does not grow with depth (GPT-2, Radford et al. 2019, section 2.3).
    """
    d, v = config.embed, config.vocab_size
    specs: dict[str, Any] = {
        "embed": {"table": ParamSpec((v, d), ("vocab", "embed"), (), ("embed",), "writes")},
        "blocks": {},
        "final_norm": _gain(config, (d,), ("embed",), "reads"),
    }
    for structure in ("dense", "moe"):
        count = len(config.layers_of(structure))
        if count:
            specs["blocks"][structure] = {n: _stack(s, count) for n, s in block_specs(config, structure).items()}
    if not config.tie_embeddings:
        specs["head"] = ParamSpec((d, v), ("embed", "vocab"), ("embed",), ("vocab",), "reads")
    return specs


def block_specs(config: ModelConfig, structure: str) -> dict[str, ParamSpec]:
    """Returns the specs of one layer of `structure`, without the leading `layers` axis."""
    d, f, h, k, hd = config.embed, config.mlp, config.heads, config.kv_heads, config.head_dim
    out_std = 0.02 / math.sqrt(2 * len(config.layers))
    norm = _gain(config, (d,), ("embed",), "reads")
    post = _gain(config, (d,), ("embed",), "writes")
    specs: dict[str, ParamSpec] = {}
    if config.norm_position != "post":
        specs |= {"attn_norm": norm, "mlp_norm": norm}
    if config.norm_position != "pre":
        specs |= {"attn_post_norm": post, "mlp_post_norm": post}
    heads = {"q": (h, "heads"), "k": (k, "kv_heads"), "v": (k, "kv_heads")}
    for name, (n, axis) in heads.items():
        rotary = name != "v"
        specs[name] = ParamSpec(
            (d, n, hd), ("embed", axis, "head_dim"), ("embed",), (axis, "head_dim"), "reads", rotary=rotary
        )
        if config.qkv_bias:
            specs[f"{name}_bias"] = ParamSpec(
                (n, hd), (axis, "head_dim"), (), (axis, "head_dim"), init="zeros", decay=False, rotary=rotary
            )
    specs["o"] = ParamSpec(
        (h, hd, d), ("heads", "head_dim", "embed"), ("heads", "head_dim"), ("embed",), "writes", init_std=out_std
    )
    if config.o_bias:
        specs["o_bias"] = ParamSpec((d,), ("embed",), (), ("embed",), "writes", init="zeros", decay=False)
    if config.qk_norm != "none":
        full = config.qk_norm == "full"
        for name, (n, axis) in (("q_norm", heads["q"]), ("k_norm", heads["k"])):
            shape, axes = ((n, hd), (axis, "head_dim")) if full else ((hd,), ("head_dim",))
            specs[name] = dataclasses.replace(_gain(config, shape, axes, "none"), rotary=True)
    return specs | (_moe_specs(config, out_std) if structure == "moe" else _ffn("", d, f, "mlp", out_std))


def _ffn(prefix: str, d: int, f: int, axis: str, out_std: float) -> dict[str, ParamSpec]:
    gate = ParamSpec((d, f), ("embed", axis), ("embed",), (axis,), "reads", ffn="gate")
    up = dataclasses.replace(gate, ffn="up")
    down = ParamSpec((f, d), (axis, "embed"), (axis,), ("embed",), "writes", init_std=out_std, ffn="down")
    return {f"{prefix}gate": gate, f"{prefix}up": up, f"{prefix}down": down}


def _moe_specs(config: ModelConfig, out_std: float) -> dict[str, ParamSpec]:
    """Router, routed experts, shared experts; `router_bias` is state: only the load moves it, no gradient does."""
    moe, d = config.moe, config.embed
    assert moe is not None
    specs = {"router": ParamSpec((d, moe.experts), ("embed", "experts"), ("embed",), ("experts",), "reads")}
    if moe.selection_bias:
        specs["router_bias"] = ParamSpec(
            (moe.experts,), ("experts",), (), ("experts",), init="zeros", decay=False, state=True
        )
    for name, spec in _ffn("expert_", d, moe.mlp, "expert_mlp", out_std).items():
        shape, axes = (moe.experts, *spec.shape), ("experts", *spec.axes)
        specs[name] = dataclasses.replace(spec, shape=shape, axes=axes)
    if moe.shared_mlp:
        specs |= _ffn("shared_", d, moe.shared_mlp, "shared_mlp", out_std)
    if moe.shared_score:
        specs["shared_score"] = ParamSpec((d,), ("embed",), ("embed",), (), "reads")
    return specs


def _gain(config: ModelConfig, shape: tuple[int, ...], axes: tuple[str, ...], residual: Residual) -> ParamSpec:
    offset = config.norm_gain_offset
    return ParamSpec(shape, axes, (), axes, residual, offset, "zeros" if offset else "ones", decay=False, gain=True)


def _stack(spec: ParamSpec, count: int) -> ParamSpec:
    values = {**spec.__dict__, "shape": (count, *spec.shape), "axes": ("layers", *spec.axes)}
    return ParamSpec(**values)


@overload
def flatten(tree: Params) -> dict[str, Array]: ...


@overload
def flatten(tree: Tree[T]) -> dict[str, T]: ...


def flatten(tree: Tree[T]) -> dict[str, T]:
    """Returns a nested dict as one level, keys joined by "/": `{"blocks/dense/q": leaf}`; order is kept."""
    out: dict[str, T] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= {f"{key}/{rest}": leaf for rest, leaf in flatten(value).items()}
        else:
            out[key] = value
    return out


def unflatten(leaves: Mapping[str, T]) -> dict[str, T | Tree[T]]:
    """Inverse of `flatten`."""
    out: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = out
        for key in parents:
            node = node.setdefault(key, {})
        node[name] = leaf
    return out


def map_specs(f: Callable[..., T], specs: Tree[U], *trees: Tree[object]) -> dict[str, T | Tree[T]]:
    """Returns the tree of `f(path, spec, *leaves)` over the axis table and trees of the same structure."""
    flat = [flatten(t) for t in trees]
    return unflatten({path: f(path, spec, *(t[path] for t in flat)) for path, spec in flatten(specs).items()})
