"""Turns dense layers into mixtures of experts: copies, granular experts, shared experts, partial re-initialisation."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import numpy as np

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig, MoeConfig, ParamSpec, flatten, param_specs
from jaxpt.models.moe_config import RouterWeights
from jaxpt.reshape.ops import Array, Mix, Op, Scale, Split, Take, numpy_of
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite, Term, index_digest

ScaleRule = Literal["none", "sqrt", "down", "route", "cube_root"]


@dataclass(frozen=True)
class Upcycling:
    """How a feed-forward network of F neurons becomes E experts.

    `shared_mlp` neurons go to a shared expert that every token passes; `granularity` G cuts the others, copied E / G
    times, into experts of (F - shared_mlp) / G neurons; the G experts of a copy have equal router columns, so that they
    are chosen together. `permute` gives each copy an order of neurons of its own. `scale` undoes the routing weights:
    "sqrt" on up and down, "down" or "route" (`MoeConfig.route_scale`) are exact for gated networks; "cube_root" (He et
    al. 2024, arXiv 2410.07524: on gate, up and down) is not, its gate is not linear. `keep` is the fraction of each
    expert's neurons that stay; the others are drawn from the replaced weights' mean and deviation (Nakamura et al.
    2025, arXiv 2502.19261), the same neurons in gate, up and down unless `shared_index` is False.
    """

    experts: int = option(doc="routed experts E of each layer")
    experts_per_token: int = option(doc="how many of them each token goes to")
    granularity: int = option(1, "experts that one copy of the network is cut into")
    shared_mlp: int = option(0, "neurons of the shared expert that every token passes")
    permute: bool = option(True, "give each copy an order of neurons of its own")
    scale: ScaleRule = option("sqrt", "what undoes the routing weights")
    weights: RouterWeights = option("renormalised", "how routing weights come from the router's logits")
    keep: float = option(0.6, "fraction of each expert's neurons that stays; the others are drawn at random")
    shared_index: bool = option(True, "redraw the same neurons in gate, up and down")
    router_std: float = option(0.002, "deviation of the router's weights")
    selection_bias: bool = option(False, "whether experts are selected with a bias that the load moves")

    def __post_init__(self) -> None:
        for name, low in (("experts", 1), ("experts_per_token", 1), ("granularity", 1), ("shared_mlp", 0)):
            if getattr(self, name) < low:
                raise JaxptError(f"{name} is {getattr(self, name)}, it must be at least {low}")
        if self.experts % self.granularity:
            raise JaxptError(f"experts {self.experts} is not a multiple of granularity {self.granularity}")
        if self.experts_per_token > self.experts:
            raise JaxptError(f"experts_per_token is {self.experts_per_token}, there are only {self.experts} experts")
        for name, known in (("scale", get_args(ScaleRule)), ("weights", get_args(RouterWeights))):
            if (value := getattr(self, name)) not in known:
                hint = nearest(value, known)
                raise JaxptError(f"{name} is {value!r}, it must be one of {', '.join(known)}{hint}")
        if not 0 <= self.keep <= 1:
            raise JaxptError(f"keep is {self.keep}, a fraction from 0 to 1")
        if self.router_std < 0:
            raise JaxptError(f"router_std is {self.router_std}, a deviation of at least 0")

    @property
    def factor(self) -> float:
        """What a routed expert's output is to be multiplied with: G, or E G / k for raw weights of an even router."""
        if self.weights == "renormalised":
            return float(self.granularity)
        return self.experts * self.granularity / self.experts_per_token

    def exactness(self) -> tuple[bool, str]:
        """Returns whether the function is kept at step 0, and the condition that holds or fails."""
        g, k = self.granularity, self.experts_per_token
        if self.keep < 1:
            return False, f"{1 - self.keep:.1%} of each expert's neurons are drawn at random"
        if k % g:
            return (
                False,
                f"experts_per_token {k} is not a multiple of granularity {g}: some shards of a copy are left out",
            )
        if self.scale == "cube_root" and self.factor != 1:
            return False, "the cube-root rule scales the gate, in which the network is not linear"
        if self.scale == "none" and self.factor != 1:
            return False, f"the experts' sum is {1 / self.factor:.3g} of the network, and nothing scales it"
        if self.weights == "softmax" and self.router_std != 0:
            return False, "raw softmax weights sum to k / E only for a router of zeros"
        return True, "whole copies are chosen and their weights sum to 1" + (f", scaled by {self.factor:g}" * (g > 1))


@dataclass(frozen=True, eq=False)
class Redraw(Op):
    """Draws chosen neurons from the normal distribution of the entries they replace, expert by expert.

    `mask [L, E, F + 1]` uint32: 1 where dimension `dim` of an expert is redrawn; entry [:, 0, F] is the layer's seed.
    """

    dim: int
    mask: np.ndarray
    salt: int = 0
    zero: bool = False

    @property
    def touched(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def tables(self) -> np.ndarray:
        return self.mask

    def on(self, x: Array, table: Array | None) -> Array:
        assert table is not None
        xp = numpy_of(x)
        shape = [x.shape[0], *(x.shape[d] if d == self.dim else 1 for d in range(1, x.ndim))]
        mask = table[:, :-1].reshape(shape) != 0
        if self.zero:
            return xp.where(mask, xp.zeros((), x.dtype), x)
        axes = tuple(range(1, x.ndim))
        count = xp.maximum(mask.sum(axis=axes, keepdims=True) * (x[0].size // x.shape[self.dim]), 1)
        mean = xp.where(mask, x, 0).sum(axis=axes, keepdims=True) / count
        std = xp.sqrt(xp.where(mask, (x - mean) ** 2, 0).sum(axis=axes, keepdims=True) / count)
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(table[0, -1]), self.salt), x.shape)
        return xp.where(mask, mean + std * (np.asarray(noise) if xp is np else noise), x)

    def moment(self, power: int) -> "Redraw":
        return dataclasses.replace(self, zero=True)


def upcycle(config: ModelConfig, options: Upcycling, layers: Sequence[int] | None = None, seed: int = 0) -> Rewrite:
    """Returns the rewrite that turns the dense layers `layers` (global numbers; None: all) into mixtures of experts.

    The lineage entry says under `exact` and `why` whether the function is kept.

    Args:
        config: the source, whose chosen layers are dense.
        options: how.
        layers: which layers.
        seed: of permutations, router and redrawn neurons.

    Raises:
        JaxptError: layers that are not dense, or widths that do not divide.
    """
    chosen = list(range(len(config.layers)) if layers is None else layers)
    if config.moe is not None:
        raise JaxptError("upcycle: the model already has mixture-of-experts layers")
    if not chosen:
        raise JaxptError("upcycle: no layer is chosen")
    for i in chosen:
        if not 0 <= i < len(config.layers) or config.layers[i].ffn != "dense":
            raise JaxptError(f"upcycle: layer {i} is not a dense layer of this model")
    routed = config.mlp - options.shared_mlp
    if routed <= 0 or routed % options.granularity:
        raise JaxptError(
            f"upcycle: mlp {config.mlp} less shared_mlp {options.shared_mlp} is not divided by granularity "
            f"{options.granularity}"
        )
    by_route = options.factor if options.scale == "route" else 1.0
    moe = MoeConfig(
        options.experts, options.experts_per_token, routed // options.granularity, options.shared_mlp,
        weights=options.weights, route_scale=by_route, selection_bias=options.selection_bias,
    )  # fmt: skip
    stack = tuple(dataclasses.replace(s, ffn="moe") if i in chosen else s for i, s in enumerate(config.layers))
    target = config.replace(layers=stack, moe=moe)
    at = {"dense": np.array(target.layers_of("dense")), "moe": np.array(target.layers_of("moe"))}
    order = _orders(config, options, at["moe"], seed)
    dense = _feed_forward(config, "mlp")
    rules: dict[str, ParamRule] = {}
    for path, spec in flatten(param_specs(target)).items():
        if not spec.stacked:
            rules[path] = (Term(path),)
        elif "shared_mlp" in spec.axes or "experts" in spec.axes:
            rules[path] = _moe_rule(options, dense, spec, at["moe"], order, seed)
        else:
            _, kind, name = path.split("/")
            rules[path] = (Term(f"blocks/dense/{name}", (), at[kind]),)
    exact, why = options.exactness()
    entry: LineageEntry = {"op": "upcycle", "options": {**dataclasses.asdict(options), "layers": chosen}, "seed": seed}
    entry |= {"exact": exact, "why": why, "indices": index_digest(*order), "tokens": 0, "flops": 0.0}
    return Rewrite(config, target, rules, entry)


def _feed_forward(config: ModelConfig, axis: str) -> dict[str, tuple[str, int]]:
    """Gate, up and down of the networks of width `axis`: each one's path, and where the axis is in a layer's slice."""
    flat: dict[str, ParamSpec] = flatten(param_specs(config))
    return {s.ffn: (path, s.axes.index(axis) - 1) for path, s in flat.items() if s.ffn and axis in s.axes}


def _orders(config: ModelConfig, o: Upcycling, layers: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Neurons of the shared expert `[L, n]` and, copy after copy, of the routed ones `[L, copies (F - n)]`."""
    shared, routed = [], []
    for l in layers:
        rng = np.random.default_rng((seed, int(l), 0))
        base = rng.permutation(config.mlp) if o.shared_mlp else np.arange(config.mlp)
        rest = np.sort(base[o.shared_mlp :])
        shared.append(np.sort(base[: o.shared_mlp]))
        copies = [rng.permutation(rest) if o.permute else rest for _ in range(o.experts // o.granularity)]
        routed.append(np.concatenate(copies))
    return np.stack(shared), np.stack(routed)


def _moe_rule(
    o: Upcycling,
    dense: Mapping[str, tuple[str, int]],
    spec: ParamSpec,
    layers: np.ndarray,
    order: tuple[np.ndarray, np.ndarray],
    seed: int,
) -> ParamRule:
    if spec.state:
        return (Term(None, (), None, seed),)
    if spec.ffn is None:  # the router: equal columns for the experts of a copy
        first = np.arange(o.experts) // o.granularity * o.granularity
        return (Term(None, (Take(1, first), Scale(None, np.float32(o.router_std / spec.init_std))), None, seed),)
    matrix, (path, dim) = spec.ffn, dense[spec.ffn]
    if "shared_mlp" in spec.axes:
        return (Term(path, (Take(dim, order[0], per_layer=True),), layers),)
    ops: list[Op] = [Take(dim, order[1], per_layer=True), Split(dim, o.experts, 0)]
    factor = {
        "sqrt": o.factor**0.5 if matrix != "gate" else 1.0,
        "down": o.factor if matrix == "down" else 1.0,
        "cube_root": o.factor ** (1 / 3),
    }.get(o.scale, 1.0)
    if factor != 1.0:
        ops.append(Scale(None, np.float32(factor)))
    width = order[1].shape[1] // o.experts
    if round((1 - o.keep) * width):
        ops.append(_redraw(o, matrix, dim + 1, layers, width, seed))
    return (Term(path, tuple(ops), layers),)


def _redraw(o: Upcycling, matrix: str, dim: int, layers: np.ndarray, width: int, seed: int) -> Redraw:
    """Marks exactly round((1 - keep) width) neurons of each expert."""
    salt = ("gate", "up", "down").index(matrix)
    mask = np.zeros((len(layers), o.experts, width + 1), np.uint32)
    for i, l in enumerate(layers):
        rng = np.random.default_rng((seed, int(l), 1 if o.shared_index else 2 + salt))
        for e in range(o.experts):
            mask[i, e, rng.permutation(width)[: round((1 - o.keep) * width)]] = 1
        mask[i, 0, width] = np.random.default_rng((seed, int(l), 5)).integers(2**31)
    return Redraw(dim, mask, salt, per_layer=True)


def average_experts(config: ModelConfig) -> Rewrite:
    """Returns the rewrite that makes each mixture one dense network of an expert's width, the mean of its experts.

    Undoes upcycling by unpermuted copies.

    Raises:
        JaxptError: shared experts, or a layer that is not a mixture.
    """
    if config.moe is None or config.moe.shared_mlp or {s.ffn for s in config.layers} != {"moe"}:
        raise JaxptError("average_experts: every layer must be a mixture of experts without shared ones")
    dense = tuple(dataclasses.replace(s, ffn="dense") for s in config.layers)
    target = config.replace(layers=dense, mlp=config.moe.mlp, moe=None)
    mean = Mix(0, 1, np.full((1, config.moe.experts), 1 / config.moe.experts, np.float32), ())
    experts = _feed_forward(config, "expert_mlp")
    rules: dict[str, ParamRule] = {}
    for path, spec in flatten(param_specs(target)).items():
        at = np.arange(spec.shape[0]) if spec.stacked else None
        if spec.ffn:
            rules[path] = (Term(experts[spec.ffn][0], (mean,), at),)
        else:
            rules[path] = (Term(path.replace("blocks/dense/", "blocks/moe/"), (), at),)
    entry: LineageEntry = {"op": "average_experts", "options": {}, "tokens": 0, "flops": 0.0}
    return Rewrite(config, target, rules, entry)
