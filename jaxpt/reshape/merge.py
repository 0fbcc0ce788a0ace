"""Fewer kv heads with all query heads kept: neighbouring kv heads become one, by their mean or by the best of them."""

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig, flatten, param_specs
from jaxpt.reshape.axes import AxisMap, rewrite_axes
from jaxpt.reshape.ops import Mix
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite, Term, index_digest
from jaxpt.reshape.scores import Scores

HOW = ("mean", "select")


def merge_kv(config: ModelConfig, kv_heads: int, *, how: str = "mean", scores: Scores | None = None) -> Rewrite:
    """Returns the rewrite with `kv_heads` kv heads, each shared by the query heads of those it replaces.

    Args:
        config: the source.
        kv_heads: a divisor of the source's.
        how: "mean" pools k and v over the merged heads (Ainslie et al. 2023, section 2.1); "select" keeps the one of
            highest score.
        scores: needed for "select", `kv_heads [L, K]`.

    Raises:
        JaxptError: not a divisor, an unknown way, "select" without scores.
    """
    if kv_heads < 1 or config.kv_heads % kv_heads:
        raise JaxptError(f"merge_kv: {kv_heads} kv heads do not divide the source's {config.kv_heads}")
    if how not in HOW:
        raise JaxptError(f"merge_kv: how is {how!r}, it must be one of {', '.join(HOW)}")
    count, size = len(config.layers), config.kv_heads // kv_heads
    options = {"kv_heads": kv_heads, "how": how}
    entry: LineageEntry = {"op": "merge_kv", "options": options, "tokens": 0, "flops": 0.0}
    first = np.broadcast_to(np.arange(kv_heads) * size, (count, kv_heads))
    if how == "select":
        if scores is None:
            raise JaxptError("merge_kv: how='select' needs scores of kv heads; give them, or use how='mean'")
        scores.check(config)
        index = first + scores.get("kv_heads").reshape(count, kv_heads, size).argmax(-1)
        entry |= {"indices": index_digest(index), "scores": dict(scores.meta)}
        return rewrite_axes(config, {"kv_heads": AxisMap(index)}, entry=entry)
    rewrite = rewrite_axes(config, {"kv_heads": AxisMap(first)}, entry=entry)
    pool = np.repeat(np.eye(kv_heads, dtype=np.float32), size, axis=1) / size
    rules: dict[str, ParamRule] = dict(rewrite.rules)
    for path, spec in flatten(param_specs(rewrite.target)).items():
        if "kv_heads" in spec.axes:
            (term,) = rules[path]
            dim = spec.axes.index("kv_heads") - int(spec.stacked)
            rules[path] = (Term(term.source, (Mix(dim, 1, pool, (kv_heads,)),), term.layers),)
    return Rewrite(config, rewrite.target, rules, entry)
