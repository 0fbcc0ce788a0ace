"""Weight subcloning: a smaller model out of a larger one's most important channels, heads, neurons and layers.

Samragh et al. 2023: one index set for the whole residual stream, neurons and heads ranked by importance, and the
weights of a matrix with d' of d inputs left multiplied by sqrt(d / d'). Baselines under the same call: evenly spaced
positions and first layers (Xu et al. 2023), and random initialisation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from jaxpt.errors import JaxptError, nearest
from jaxpt.models import Model, ModelConfig, flatten, param_specs
from jaxpt.models.params import Tree
from jaxpt.reshape.apply import reshaped
from jaxpt.reshape.axes import AxisMap, axis_size, rewrite_axes, with_groups
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.depth import default_depth, kept_layers
from jaxpt.reshape.head_dim import head_dim_maps
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite, Term, index_digest
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.target import MOE_LENGTHS, Target, lengths, lengths_of

SCALING = ("none", "fan_in", "writers")
SELECTION = ("importance", "uniform")
EXPERTS = {"contribution": "experts", "reap": "experts_reap"}  # by which score experts are ranked


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Which positions of each axis stay: what a cut is, apart from the numbers in the weights.

    `layers` are global numbers; `embed [d]`; `kv_heads [L, k]`, `heads [L, n]`, `mlp [L, f]`, `experts [L, e]`,
    `expert_mlp [L, E, f]` (by the source's experts) and `shared_mlp [L, f]` for all L layers of the source; None where
    an axis keeps its length.
    """

    layers: np.ndarray
    embed: np.ndarray | None = None
    kv_heads: np.ndarray | None = None
    heads: np.ndarray | None = None
    mlp: np.ndarray | None = None
    experts: np.ndarray | None = None
    expert_mlp: np.ndarray | None = None
    shared_mlp: np.ndarray | None = None


def subclone(
    model: Model,
    target: Target | Mapping[str, object],
    scores: Scores | None = None,
    *,
    selection: str = "importance",
    scaling: str = "none",
    depth: str | None = None,
    shardings: Tree[NamedSharding] | None = None,
) -> Model:
    """Returns `model` cut to `target`, with its tokenizer and one lineage entry more.

    Arguments and errors as `subclone_rewrite`, except that data-free scores are taken where none are given; `shardings`
    lays out the result, see `jaxpt.reshape.apply`.
    """
    if scores is None and selection == "importance":
        lengths(model.config, target)
        scores = weight_scores(InMemory(model.config, model.params))
    rewrite = subclone_rewrite(model.config, target, scores, selection=selection, scaling=scaling, depth=depth)
    return reshaped(model, rewrite, shardings)


def subclone_rewrite(
    config: ModelConfig,
    target: Target | Mapping[str, object],
    scores: Scores | None = None,
    *,
    selection: str = "importance",
    scaling: str = "none",
    depth: str | None = None,
    experts: str = "contribution",
) -> Rewrite:
    """Returns the rewrite that cuts a model of shape `config` to `target`.

    Args:
        config: the source.
        target: the lengths wanted, see `jaxpt.reshape.target`.
        scores: of the source; needed for "importance".
        selection: "importance" keeps the highest scores, "uniform" evenly spaced positions.
        scaling: "none"; "fan_in" multiplies every matrix by sqrt(source / target) of its contracted lengths;
            "writers" only those that write to the residual stream (a pre-norm renormalises the others' input).
        depth: which layers stay, a name from `jaxpt.reshape.depth.DEPTH`. Default: "loss" or "influence" where there
            are such scores, "middle" where not, "first" for uniform selection.
        experts: "contribution" ranks experts by what they add to the stream over all tokens, "reap" by the mean over
            the tokens that are routed to them (scores from data only).

    Raises:
        JaxptError: what `lengths` refuses, scores of another model, an unknown option.
    """
    options = (("selection", selection, SELECTION), ("scaling", scaling, SCALING), ("experts", experts, tuple(EXPERTS)))
    for name, value, known in options:
        if value not in known:
            raise JaxptError(
                f"subclone: {name} is {value!r}, it must be one of {', '.join(known)}{nearest(value, known)}"
            )
    want = lengths(config, target)
    if selection == "importance" and scores is None:
        raise JaxptError("subclone: selection='importance' needs scores; give them, or use selection='uniform'")
    if scores is not None:
        scores.check(config)
    if selection == "uniform":
        scores = None
    kept = choose(config, want, scores, depth=depth, experts=experts)
    rewrite = cut(config, want, kept, scores, scaling=scaling)
    entry = {"target": want, "selection": selection, "scaling": scaling, "depth": depth}
    entry |= {"experts": experts} if want.get("experts") != lengths_of(config).get("experts") else {}
    meta = {} if scores is None else scores.meta
    tokens, flops = int(meta.get("tokens", 0)), float(meta.get("flops", 0.0))
    rewrite = rewrite.with_entry(op="subclone", options=entry, tokens=tokens, flops=flops)
    if scores is not None:
        rewrite = rewrite.with_entry(scores=dict(meta))
    if want == lengths_of(config):
        rewrite = rewrite.with_entry(exact=True, why="nothing is cut: the target has the source's lengths")
    return rewrite


def choose(
    config: ModelConfig,
    want: Mapping[str, int],
    scores: Scores | None,
    *,
    depth: str | None = None,
    experts: str = "contribution",
) -> Kept:
    """Returns the positions kept on each axis: by `scores`, or evenly spaced without; `experts` is a key of `EXPERTS`.

    Query heads are chosen within their kv head, equally many in each; index sets are ascending.
    """
    count = len(config.layers)

    def best(name: str, size: int, keep: int) -> np.ndarray | None:
        if keep == size:
            return None
        if scores is None:
            even = uniform_index(size, keep)
            return even if name == "embed" else np.broadcast_to(even, (count, keep))
        return top(scores.get(EXPERTS[experts] if name == "experts" else name), keep)

    kv, per = want["kv_heads"], want["heads"] // want["kv_heads"]
    kv_index = best("kv_heads", config.kv_heads, kv)
    heads = None
    if per != config.group or kv_index is not None:
        groups = np.broadcast_to(np.arange(config.kv_heads), (count, config.kv_heads)) if kv_index is None else kv_index
        heads = with_groups(config, groups)
        if per != config.group:
            if scores is None:
                inside = np.broadcast_to(uniform_index(config.group, per), (count, kv, per))
            else:
                of_kept = np.take_along_axis(scores.get("heads"), heads, axis=1)
                inside = top(of_kept.reshape(count, kv, config.group), per)
            heads = np.take_along_axis(heads.reshape(count, kv, config.group), inside, axis=2).reshape(count, -1)
    return Kept(
        layers=kept_layers(count, want["layers"], depth or default_depth(scores), scores),
        embed=best("embed", config.embed, want["embed"]),
        kv_heads=kv_index,
        heads=heads,
        mlp=best("mlp", config.mlp, want["mlp"]),
        **{a: best(a, axis_size(config, a), want[a]) for a in MOE_LENGTHS if a in want},
    )


def cut(
    config: ModelConfig, want: Mapping[str, int], kept: Kept, scores: Scores | None = None, *, scaling: str = "none"
) -> Rewrite:
    """Returns the rewrite that keeps the positions `kept`, with the scaling of `subclone_rewrite`."""
    maps: dict[str, AxisMap] = {}
    for axis in ("embed", "kv_heads", "heads", "mlp", *MOE_LENGTHS):
        index = getattr(kept, axis)
        if index is not None:
            old = axis_size(config, axis)
            maps[axis] = AxisMap(index, reader=(old / index.shape[-1]) ** 0.5 if scaling != "none" else 1.0)
    changes: dict[str, object] = {}
    if want["head_dim"] != config.head_dim:
        more, changes = head_dim_maps(config, want["head_dim"], scores)
        if scaling != "none":
            ratio = (config.head_dim / want["head_dim"]) ** 0.5
            more["head_dim"] = dataclasses.replace(more["head_dim"], reader=ratio)
        maps |= more
    if scaling == "writers" and "embed" in maps:
        maps["embed"] = dataclasses.replace(maps["embed"], reader=1.0)
    sets = {a: index_digest(m.index) for a, m in maps.items() if m.index is not None}
    entry: LineageEntry = {"op": "cut", "layers": [int(i) for i in kept.layers], "indices": sets}
    return rewrite_axes(config, maps, layers=[int(i) for i in kept.layers], changes=changes, entry=entry)


def top(scores: np.ndarray, keep: int) -> np.ndarray:
    """Returns the positions of the `keep` highest scores along the last dimension, ascending; ties: the lower first."""
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :keep]
    return np.sort(best, axis=-1)


def uniform_index(size: int, keep: int) -> np.ndarray:
    """Returns `keep` evenly spaced positions out of `size`, ascending."""
    return (np.arange(keep) * size) // keep


def random_init(config: ModelConfig, target: Target | Mapping[str, object], seed: int = 0) -> Rewrite:
    """Returns the rewrite that draws the target's parameters at random, as `init_params(target, seed)` would.

    Raises:
        JaxptError: what `lengths` refuses: a baseline is given the same task.
    """
    want = lengths(config, target)
    changes = head_dim_maps(config, want["head_dim"], None)[1] if want["head_dim"] != config.head_dim else {}
    sizes: dict[str, Any] = {k: v for k, v in want.items() if k != "layers" and k not in MOE_LENGTHS}
    if config.moe is not None:
        inner: dict[str, Any] = {field: want[name] for name, field in MOE_LENGTHS.items()}
        sizes["moe"] = dataclasses.replace(config.moe, **inner)
    layers = kept_layers(len(config.layers), want["layers"], "first", None)
    new = config.replace(**{**sizes, **changes, "layers": tuple(config.layers[i] for i in layers)})
    rules: dict[str, ParamRule] = {path: (Term(None, (), None, seed),) for path in flatten(param_specs(new))}
    return Rewrite(
        config,
        new,
        rules,
        {
            "op": "random_init",
            "options": {"target": want},
            "seed": seed,
            "tokens": 0,
            "flops": 0.0,
            "exact": False,
            "why": "drawn at random, nothing of the model is used",
        },
    )
