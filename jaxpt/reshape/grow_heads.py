"""More and larger heads without a change of the function: query heads, kv heads of their own, head dimensions."""

import dataclasses

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig, RopeConfig
from jaxpt.models.rope import inverse_frequencies
from jaxpt.reshape.axes import AxisMap, rewrite_axes
from jaxpt.reshape.head_dim import matched_pairs
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite


def pad_heads(config: ModelConfig, heads: int, *, fresh: bool = True, seed: int = 0) -> Rewrite:
    """Returns the rewrite that adds query heads to every group, equally many; `o` reads zero of them.

    Args:
        config: the source.
        heads: the new number, a multiple of `kv_heads`.
        fresh: draw the new heads' queries instead of leaving them zero.
        seed: of the draw.

    Raises:
        JaxptError: fewer heads, not a multiple, or a norm across heads.
    """
    k, group = config.kv_heads, config.group
    if heads < config.heads or heads % k:
        raise JaxptError(f"target.heads is {heads}; growth needs a multiple of kv_heads ({k}) above {config.heads}")
    if config.qk_norm == "full":
        raise JaxptError("heads: with qk_norm='full' new heads would change the norm across heads; duplicate them")
    inside = np.arange(heads // k)
    row = np.where(inside < group, np.arange(k)[:, None] * group + inside, -1).reshape(-1)
    maps = {"heads": AxisMap(np.broadcast_to(row, (len(config.layers), heads)))}
    entry: LineageEntry = {"op": "pad", "options": {"axis": "heads", "size": heads, "fresh": fresh}, "seed": seed}
    entry |= {"exact": True, "why": "o reads zero of new heads"}
    return rewrite_axes(config, maps, entry=entry, fresh={"heads": ("writer",)} if fresh else None, seed=seed)


def split_kv(config: ModelConfig, kv_heads: int) -> Rewrite:
    """Returns the rewrite that gives parts of each group a copy of its kv head; the query heads stay as they are.

    Raises:
        JaxptError: not a multiple of the source's kv heads, or groups that do not divide.
    """
    ways = kv_heads // config.kv_heads
    if kv_heads % config.kv_heads or config.group % max(ways, 1) or ways < 1:
        raise JaxptError(
            f"target.kv_heads is {kv_heads}: {config.kv_heads} kv heads of {config.group} query heads each are split "
            f"into a divisor of {config.group} times as many"
        )
    row = np.repeat(np.arange(config.kv_heads), ways)
    maps = {"kv_heads": AxisMap(np.broadcast_to(row, (len(config.layers), kv_heads)))}
    entry: LineageEntry = {"op": "split_kv", "options": {"kv_heads": kv_heads}}
    entry |= {"exact": True, "why": "each query head reads a copy of its kv head"}
    return rewrite_axes(config, maps, entry=entry)


def pad_head_dim(config: ModelConfig, head_dim: int, *, fresh: bool = True, seed: int = 0) -> Rewrite:
    """Returns the rewrite that makes heads larger: RoPE pairs keep their frequency, `o` reads zero of new dimensions.

    Old pairs are where `matched_pairs` would cut them out again; where no formula gives both old and new frequencies
    they are in `rope.inv_freq`. New dimensions of q are zero (with a norm of queries and keys those of k as well),
    what the larger head changes in the softmax scale and in the norm's statistic is put into q and k or their gains.

    Args:
        config: the source.
        head_dim: the new size, even.
        fresh: draw the new dimensions of v, and of k where nothing normalises it.
        seed: of the draw.

    Raises:
        JaxptError: smaller or odd.
    """
    old, ratio = config.head_dim, config.head_dim / head_dim
    if head_dim < old or head_dim % 2:
        raise JaxptError(f"target.head_dim is {head_dim}; growth needs an even number above the source's {old}")
    pairs = matched_pairs(head_dim, old)
    at = np.concatenate([pairs, pairs + head_dim // 2])
    row = np.full(head_dim, -1)
    row[at] = np.arange(old)
    index = np.broadcast_to(row, (len(config.layers), head_dim))
    softmax = 1.0 if config.attention_scale is not None else ratio**-0.25  # on q and on k
    normed = config.qk_norm != "none"
    maps = {
        "rotary_dim": AxisMap(index, writer=1.0 if normed else softmax, gain=ratio**0.5 * softmax),
        "head_dim": AxisMap(index),
    }
    changes: dict[str, object] = {"rope": _more_frequencies(config.rope, old, pairs, head_dim)}
    if config.rope_local is not None:
        changes["rope_local"] = _more_frequencies(config.rope_local, old, pairs, head_dim)
    if normed:
        changes["qk_norm_eps"] = (config.norm_eps if config.qk_norm_eps is None else config.qk_norm_eps) * ratio
    entry: LineageEntry = {"op": "pad", "options": {"axis": "head_dim", "size": head_dim, "fresh": fresh}, "seed": seed}
    entry |= {"exact": True, "why": "new dimensions add zero to the scores, and o reads zero of them"}
    drawn = {"head_dim": ("writer",)} | ({} if normed else {"rotary_dim": ("writer",)})
    rewrite = rewrite_axes(config, maps, changes=changes, entry=entry, fresh=drawn if fresh else None, seed=seed)
    rules: dict[str, ParamRule] = dict(rewrite.rules)
    for path, spec in rewrite.specs.items():
        if spec.rotary and "heads" in spec.axes and not spec.gain:
            rules[path] = rules[path][:1]  # q's new dimensions stay zero beside k's drawn ones
    return Rewrite(rewrite.source, rewrite.target, rules, rewrite.entry)


def _more_frequencies(rope: RopeConfig, old: int, pairs: np.ndarray, head_dim: int) -> RopeConfig:
    speeds, _ = inverse_frequencies(rope, old)
    plain = dataclasses.replace(rope, inv_freq=None)
    table = np.array(inverse_frequencies(plain, head_dim)[0])
    if rope.inv_freq is None and np.allclose(table[pairs], speeds, rtol=1e-6, atol=0):
        return plain
    table[pairs] = speeds
    return dataclasses.replace(rope, inv_freq=tuple(float(f) for f in table))
