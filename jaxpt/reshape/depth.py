"""Which layers stay, and how the others' absence is made up for: drop, rescale the stream's norm, iterate."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig, flatten, param_specs
from jaxpt.reshape.axes import rewrite_axes
from jaxpt.reshape.ops import Scale
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite, Term
from jaxpt.reshape.scores import Scores

ChooseLayers = Callable[[int, int, Scores | None], np.ndarray]


def _by(name: str) -> ChooseLayers:
    def choose(count: int, keep: int, scores: Scores | None) -> np.ndarray:
        if scores is None:
            raise JaxptError(f"depth={_NAMES[name]!r} needs scores of layers; score on data, or use depth='middle'")
        return np.sort(np.argsort(-scores.get(name), kind="stable")[:keep])

    return choose


_NAMES = {"layers": "influence", "layers_loss": "loss"}


def _middle(count: int, keep: int, scores: Scores | None) -> np.ndarray:
    first = (keep + 1) // 2
    return np.concatenate([np.arange(first), np.arange(count - (keep - first), count)])


def _even(count: int, keep: int, scores: Scores | None) -> np.ndarray:
    return np.round(np.linspace(0, count - 1, keep)).astype(np.int64) if keep > 1 else np.zeros(1, np.int64)


# name -> which layers stay, given (count, keep, scores)
DEPTH: dict[str, ChooseLayers] = {
    "loss": _by("layers_loss"),
    "influence": _by("layers"),
    "middle": _middle,
    "even": _even,
    "first": lambda count, keep, scores: np.arange(keep),
}


def default_depth(scores: Scores | None) -> str:
    """Returns the best choice of layers that the scores allow; "first" without scores (Xu et al. 2023)."""
    if scores is None:
        return "first"
    return "loss" if "layers_loss" in scores.values else "influence" if "layers" in scores.values else "middle"


def kept_layers(count: int, keep: int, how: str, scores: Scores | None) -> np.ndarray:
    """Returns the global numbers of the layers that stay, ascending.

    "loss" drops those whose removal costs least, "influence" those of least Block Influence, "middle" a contiguous run
    in the middle; "even" keeps evenly spaced layers with both ends, "first" the first.

    Raises:
        JaxptError: an unknown name, or scores without layers.
    """
    if how not in DEPTH:
        raise JaxptError(f"depth is {how!r}, it must be one of {', '.join(DEPTH)}{nearest(how, DEPTH)}")
    if keep == count:
        return np.arange(count)
    return DEPTH[how](count, keep, scores)


def drop_layers(config: ModelConfig, drop: Iterable[int]) -> Rewrite:
    """Returns the rewrite without the layers `drop` (global numbers).

    Raises:
        JaxptError: a number outside the model, or no layer left.
    """
    dropped = sorted({int(i) for i in drop})
    count = len(config.layers)
    if dropped and (dropped[0] < 0 or dropped[-1] >= count):
        raise JaxptError(
            f"drop_layers names layer {dropped[-1] if dropped[-1] >= count else dropped[0]}, there are 0 … {count - 1}"
        )
    kept = [i for i in range(count) if i not in dropped]
    if not kept:
        raise JaxptError(f"drop_layers would leave no layer of {count}")
    entry: LineageEntry = {"op": "drop_layers", "options": {"drop": dropped}, "tokens": 0, "flops": 0.0}
    return rewrite_axes(config, {}, layers=kept, entry=entry)


def drop_and_rescale(config: ModelConfig, drop: Sequence[int], growth: Sequence[float]) -> Rewrite:
    """Returns the rewrite that drops layers and makes up for the norm they gave the stream (Prune&Comp, 2025).

    A dropped layer let the stream's norm grow by a factor; everything that writes to the stream before it (embedding,
    o, down and their biases, or the norms behind them) is multiplied by that factor, which earlier pre-norms cannot
    see. With tied embeddings the final norm's gain is divided by what the table was multiplied with.

    Args:
        config: the source, with norms before the branches.
        drop: global numbers of the dropped layers.
        growth: for each, the mean over tokens of |stream after| / |stream before|.

    Raises:
        JaxptError: what `drop_layers` refuses; a model whose branches read the stream unnormalised.
    """
    if config.norm_position == "post":
        raise JaxptError("drop_and_rescale: with norm_position='post' layers read the stream's norm; use drop_layers")
    rewrite = drop_layers(config, drop)
    table = 1.0
    factors = np.ones(len(config.layers), np.float32)  # of what each source layer writes
    for l, g in zip(drop, growth):
        factors[: int(l)] *= g
        table *= float(g)
    kept = np.array([i for i in range(len(config.layers)) if i not in set(drop)])
    rules: dict[str, ParamRule] = dict(rewrite.rules)
    for path, spec in flatten(param_specs(rewrite.target)).items():
        (term,) = rules[path]
        op = None
        if spec.stacked and spec.residual == "writes" and (config.norm_position == "pre" or spec.gain):
            at = kept[list(rewrite.target.layers_of(path.split("/")[1]))]
            op = Scale(None, factors[at], float(spec.gain_offset), per_layer=True)
        elif not spec.stacked and spec.residual == "writes":
            op = Scale(None, np.float32(table))
        elif not spec.stacked and spec.gain and config.tie_embeddings:
            op = Scale(None, np.float32(1 / table), float(spec.gain_offset))
        if op is not None and not np.all(op.factor == 1):
            rules[path] = (Term(term.source, (*term.ops, op), term.layers),)
    options = {"drop": [int(i) for i in drop], "growth": [float(g) for g in growth]}
    return Rewrite(config, rewrite.target, rules, {**rewrite.entry, "op": "drop_and_rescale", "options": options})
