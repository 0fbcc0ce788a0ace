"""Growth to a target shape: which plans, axis by axis, make a model as wide or as deep as is asked."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig
from jaxpt.reshape.axes import pad
from jaxpt.reshape.grow import aki, depth_up_scale, fpi, interpolate, llama_pro, repeat, stack
from jaxpt.reshape.grow_heads import pad_head_dim, pad_heads, split_kv
from jaxpt.reshape.plan import Plan
from jaxpt.reshape.target import Target, grown_lengths

WIDER = ("pad", "duplicate", "fpi", "aki")


def widen(
    config: ModelConfig,
    target: Target | Mapping[str, Any],
    how: str = "pad",
    *,
    fresh: bool = True,
    noise: float = 0.0,
    seed: int = 0,
) -> list[Plan]:
    """Returns the plans, to be applied in order, that make a model as wide as `target`; its depth stays.

    Args:
        config: the source.
        target: lengths of at least the source's; `layers` is not read.
        how: "pad" appends positions that add zero (any axis); "duplicate" copies positions as evenly as it goes, "fpi"
            sampled ones (bert2BERT), neither along head_dim; "aki" is fpi with the next layer's neurons along `mlp`
            (not function-preserving).
        fresh: pad: draw the side of new positions that may be drawn.
        noise: duplicate, fpi: deviation of what is added to one copy's readers and taken from another's.
        seed: of draws and samples.

    Raises:
        JaxptError: a length below the source's, an unknown way, or a growth that the way does not have.
    """
    if how not in WIDER:
        raise JaxptError(f"grow_width: how is {how!r}, it must be one of {', '.join(WIDER)}{nearest(how, WIDER)}")
    if noise and how not in ("duplicate", "fpi"):
        raise JaxptError(
            f"grow_width: noise is for copies (how='duplicate' or 'fpi'), how={how!r} makes none that need it"
        )
    want = grown_lengths(config, target)
    if how == "aki" and want["mlp"] == config.mlp:
        raise JaxptError(
            "grow_width: how='aki' makes new neurons of the next layer's; set target.mlp above the source's"
        )
    copy = repeat if how == "duplicate" else fpi
    out: list[Plan] = []

    def add(plan: Plan) -> None:
        out.append(plan)

    def now() -> ModelConfig:
        return out[-1].target if out else config

    for axis in ("embed", "mlp", "expert_mlp", "shared_mlp"):
        if want.get(axis) == grown_lengths(config, {}).get(axis):
            continue
        if how == "pad":
            add(pad(now(), axis, want[axis], fresh=fresh, seed=seed))
        elif how == "aki" and axis == "mlp":
            add(aki(now(), want[axis], seed))
        else:
            add(copy(now(), axis, want[axis], seed, noise))
    for step in _heads(config, want["heads"], want["kv_heads"], how, fresh, noise, seed):
        add(step(now()))
    if want["head_dim"] != config.head_dim:
        if how != "pad":
            raise JaxptError(f"grow_width: how={how!r} does not grow head_dim; use how='pad' for it")
        add(pad_head_dim(now(), want["head_dim"], fresh=fresh, seed=seed))
    if not out:
        raise JaxptError("grow_width: the target is not wider than the source; set config.target, e.g. target.mlp")
    return out


Step = Callable[[ModelConfig], Plan]


def _heads(config: ModelConfig, heads: int, kv: int, how: str, fresh: bool, noise: float, seed: int) -> list[Step]:
    """Whole groups where groups stay as large or grow, parts of groups where they shrink; then heads in each group."""
    steps: list[Step] = []
    group, copy = config.group, repeat if how == "duplicate" else fpi
    if heads // kv < group:
        group = group * config.kv_heads // kv
        steps.append(lambda c: split_kv(c, kv))
    elif kv != config.kv_heads:
        steps.append(
            (lambda c: pad(c, "kv_heads", kv, fresh=fresh, seed=seed))
            if how == "pad"
            else (lambda c: copy(c, "kv_heads", kv, seed, noise))
        )
    if heads != kv * group:
        steps.append(
            (lambda c: pad_heads(c, heads, fresh=fresh, seed=seed))
            if how == "pad"
            else (lambda c: copy(c, "heads", heads, seed, noise))
        )
    return steps


def _depth_up_scale(config: ModelConfig, layers: int) -> Plan:
    count = len(config.layers)
    if layers % 2 or not count < layers <= 2 * count:
        raise JaxptError(
            f"depth_up_scale: target.layers is {layers}; two copies of {count} layers with equal cuts give an even "
            f"number from {count + 1} to {2 * count}"
        )
    return depth_up_scale(config, count - layers // 2)


# name -> plan, given the number of layers wanted
DEEPER: dict[str, Callable[[ModelConfig, int], Plan]] = {
    "llama_pro": lambda config, layers: llama_pro(config, layers - len(config.layers)),
    "stack": stack,
    "interpolate": interpolate,
    "depth_up_scale": _depth_up_scale,
}


def deepen(config: ModelConfig, layers: int, how: str = "llama_pro") -> Plan:
    """Returns the plan that makes a model `layers` deep, by a method of `DEEPER`.

    Raises:
        JaxptError: an unknown method, or a number of layers that the method cannot make.
    """
    if how not in DEEPER:
        raise JaxptError(f"grow_depth: how is {how!r}, it must be one of {', '.join(DEEPER)}{nearest(how, DEEPER)}")
    if layers <= len(config.layers):
        raise JaxptError(f"target.layers is {layers}; growth needs more than the source's {len(config.layers)}")
    return DEEPER[how](config, layers)
