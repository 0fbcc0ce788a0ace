"""Growth to a target shape: which rewrites, axis by axis, make a model as wide or as deep as is asked."""

from collections.abc import Callable, Iterator, Mapping

from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig
from jaxpt.reshape.axes import pad
from jaxpt.reshape.grow import aki, depth_up_scale, fpi, interpolate, llama_pro, repeat, stack
from jaxpt.reshape.grow_heads import pad_head_dim, pad_heads, split_kv
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.target import Target, grown_lengths

WIDER = ("pad", "duplicate", "fpi", "aki")


def widen(
    config: ModelConfig,
    target: Target | Mapping[str, object],
    how: str = "pad",
    *,
    fresh: bool = True,
    noise: float = 0.0,
    seed: int = 0,
) -> list[Rewrite]:
    """Returns the rewrites, to be applied in order, that make a model as wide as `target`; its depth stays.

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
    want = grown_lengths(config, target)
    _check_way(config, want, how, noise)
    out: list[Rewrite] = []
    for growth in _growths(config, want, how, fresh, noise, seed):
        out.append(growth(out[-1].target if out else config))
    if not out:
        raise JaxptError("grow_width: the target is not wider than the source; set for instance --config.target.mlp=…")
    return out


def _check_way(config: ModelConfig, want: Mapping[str, int], how: str, noise: float) -> None:
    if how not in WIDER:
        raise JaxptError(f"grow_width: how is {how!r}, it must be one of {', '.join(WIDER)}{nearest(how, WIDER)}")
    if noise and how not in ("duplicate", "fpi"):
        raise JaxptError(f"grow_width: noise is for copies, how='duplicate' or 'fpi'; how={how!r} needs none")
    if how == "aki" and want["mlp"] == config.mlp:
        raise JaxptError(
            "grow_width: how='aki' makes neurons of the next layer's; set --config.target.mlp above the source's"
        )
    if how != "pad" and want["head_dim"] != config.head_dim:
        raise JaxptError(f"grow_width: how={how!r} does not grow head_dim; use how='pad' for it")


Growth = Callable[[ModelConfig], Rewrite]


def _growths(
    config: ModelConfig, want: Mapping[str, int], how: str, fresh: bool, noise: float, seed: int
) -> Iterator[Growth]:
    """What is to be done, each on the model that the ones before it made."""

    def longer(axis: str) -> Growth:
        if how == "pad":
            if axis == "heads":
                return lambda c: pad_heads(c, want["heads"], fresh=fresh, seed=seed)
            return lambda c: pad(c, axis, want[axis], fresh=fresh, seed=seed)
        if how == "aki" and axis == "mlp":
            return lambda c: aki(c, want["mlp"], seed)
        return lambda c: (repeat if how == "duplicate" else fpi)(c, axis, want[axis], seed, noise)

    have = grown_lengths(config, {})
    for axis in ("embed", "mlp", "expert_mlp", "shared_mlp"):
        if want.get(axis) != have.get(axis):
            yield longer(axis)
    # whole groups where groups stay as large or grow, parts of groups where they shrink; then heads in each group
    group, kv = config.group, want["kv_heads"]
    if want["heads"] // kv < group:
        group = group * config.kv_heads // kv
        yield lambda c: split_kv(c, kv)
    elif kv != config.kv_heads:
        yield longer("kv_heads")
    if want["heads"] != kv * group:
        yield longer("heads")
    if want["head_dim"] != config.head_dim:
        yield lambda c: pad_head_dim(c, want["head_dim"], fresh=fresh, seed=seed)


def _depth_up_scale(config: ModelConfig, layers: int) -> Rewrite:
    count = len(config.layers)
    if layers % 2 or not count < layers <= 2 * count:
        raise JaxptError(
            f"depth_up_scale: target.layers is {layers}; two copies of {count} layers with equal cuts give an even "
            f"number from {count + 1} to {2 * count}"
        )
    return depth_up_scale(config, count - layers // 2)


# name -> rewrite, given the number of layers wanted
DEEPER: dict[str, Callable[[ModelConfig, int], Rewrite]] = {
    "llama_pro": lambda config, layers: llama_pro(config, layers - len(config.layers)),
    "stack": stack,
    "interpolate": interpolate,
    "depth_up_scale": _depth_up_scale,
}


def deepen(config: ModelConfig, layers: int, how: str = "llama_pro") -> Rewrite:
    """Returns the rewrite that makes a model `layers` deep, by a method of `DEEPER`.

    Raises:
        JaxptError: an unknown method, or a number of layers that the method cannot make.
    """
    if how not in DEEPER:
        raise JaxptError(f"grow_depth: how is {how!r}, it must be one of {', '.join(DEEPER)}{nearest(how, DEEPER)}")
    if layers <= len(config.layers):
        raise JaxptError(f"target.layers is {layers}; growth needs more than the source's {len(config.layers)}")
    return DEEPER[how](config, layers)
