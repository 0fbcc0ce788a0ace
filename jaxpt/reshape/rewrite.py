"""A transform as data: for every parameter of the new model, how each layer's slice comes from slices of the old.

A `Rewrite` holds the old and the new config, one rule per new parameter and the lineage entry. A rule is a sum of
terms; a term reads one input slice (or draws fresh values) and passes it through ops. The same rewrite is applied to
arrays in memory, to sharded arrays under `jit`, to optimizer moments (`jaxpt.reshape.apply`) and slice by slice to a
model too large for memory (`jaxpt.reshape.stream`); rewrites compose by applying one after the other.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import jax
import numpy as np
import numpy.typing as npt

from jaxpt.models import ModelConfig, ParamSpec, flatten, param_specs
from jaxpt.models.init import leaf_key
from jaxpt.reshape.ops import Op, Take


@dataclass(frozen=True, eq=False)
class Term:
    """One summand of a rule: input slices of `source` through `ops`.

    `layers [L']` says, per output layer (place in its stack), which entry of the source's stack is read; None for
    parameters without layers. `source` None draws fresh values as `init_params` would, from `seed`.
    """

    source: str | None
    ops: tuple[Op, ...] = ()
    layers: np.ndarray | None = None
    seed: int = 0


ParamRule = tuple[Term, ...]


class LineageEntry(TypedDict, total=False):
    """What the lineage keeps of a step: what was done, with which options, at which cost, and whether it is exact."""

    op: str
    options: Mapping[str, object]
    seed: int
    tokens: int  # of calibration data
    flops: float
    exact: bool  # whether the function is kept
    why: str  # the condition that holds or fails
    indices: str | Mapping[str, str]  # hashes of index sets
    layers: Sequence[int]  # of the source, that stay
    scores: Mapping[str, object]  # `Scores.meta`
    by: str
    score: float
    compensation: Sequence[str]
    freeze: Sequence[str]
    parameters: int
    step_zero: Mapping[str, object]
    masks: Mapping[str, object]  # losses of the masked model, soft and final, and how much of its training was done
    source: Mapping[str, str]  # `path` and `digest` of the model that the first step of a reshape was made of
    moments: Mapping[str, object]  # of which optimizer and step they were carried along, and which start new


@dataclass(frozen=True, eq=False)
class Rewrite:
    """What turns a model of config `source` into one of config `target`.

    `rules` maps every parameter path of the target to its rule. `entry` is the lineage entry: `op`, `options`, `seed`,
    `tokens`, `flops` and what else identifies the step.

    Raises:
        ValueError: a parameter without rule, or a rule whose result has another shape than the axis table says.
    """

    source: ModelConfig
    target: ModelConfig
    rules: Mapping[str, ParamRule] = field(repr=False)
    entry: LineageEntry = field(default_factory=LineageEntry)

    def __post_init__(self) -> None:
        old, new = flatten(param_specs(self.source)), flatten(param_specs(self.target))
        if set(self.rules) != set(new):
            raise ValueError(f"rules are for {sorted(self.rules)}, the target has {sorted(new)}")
        for path, rule in self.rules.items():
            for term in rule:
                _check_term(path, term, old, new[path])

    @property
    def specs(self) -> dict[str, ParamSpec]:
        """The target's axis table, flat."""
        return flatten(param_specs(self.target))

    def with_entry(self, **changes: Unpack[LineageEntry]) -> "Rewrite":
        """Returns the rewrite with keys of its lineage entry added or replaced."""
        return dataclasses.replace(self, entry={**self.entry, **changes})


def _check_term(path: str, term: Term, old: Mapping[str, ParamSpec], spec: ParamSpec) -> None:
    want = spec.shape[1:] if spec.stacked else spec.shape
    if spec.stacked and (term.layers is None or len(term.layers) != spec.shape[0]) and term.source is not None:
        raise ValueError(f"{path}: the rule does not name an input layer for each of {spec.shape[0]} layers")
    if term.source is None:
        shape = want
    else:
        source = old[term.source]
        shape = source.shape[1:] if source.stacked else source.shape
        if source.stacked != (term.layers is not None):
            raise ValueError(f"{path}: {term.source} {'has' if source.stacked else 'has no'} layers, the rule differs")
        if (
            source.stacked
            and term.layers is not None
            and not np.all((term.layers >= 0) & (term.layers < source.shape[0]))
        ):
            raise ValueError(
                f"{path}: input layers {term.layers} are outside {term.source} of {source.shape[0]} layers"
            )
    for op in term.ops:
        _check_index(path, op, shape)
        shape = op.shape(shape)
    if shape != want:
        raise ValueError(f"{path}: the rule makes slices of shape {shape}, the axis table says {want}")


def _check_index(path: str, op: Op, shape: tuple[int, ...]) -> None:
    if isinstance(op, Take) and op.index.size and (op.index.max() >= shape[op.dim] or op.index.min() < -1):
        raise ValueError(f"{path}: an index is outside dimension {op.dim} of length {shape[op.dim]}")


def identity_rules(source: ModelConfig) -> dict[str, ParamRule]:
    """Returns rules that copy every parameter: what transforms change some of."""
    return {path: (copy(path, spec),) for path, spec in flatten(param_specs(source)).items()}


def copy(path: str, spec: ParamSpec, ops: Sequence[Op] = (), layers: np.ndarray | None = None) -> Term:
    """Returns the term that reads `path`, all its layers in order unless `layers` says otherwise."""
    if spec.stacked and layers is None:
        layers = np.arange(spec.shape[0])
    return Term(path, tuple(ops), layers)


def draw(spec: ParamSpec, seed: int, path: str, layer: jax.Array | int | None) -> jax.Array:
    """Returns fresh float32 values of one slice, equal bit for bit to what `init_params` draws there."""
    shape = spec.shape[1:] if spec.stacked else spec.shape
    if spec.init != "normal":
        return jax.numpy.full(shape, 1.0 if spec.init == "ones" else 0.0, jax.numpy.float32)
    key = leaf_key(seed, path)
    return _normal(key if layer is None else jax.random.fold_in(key, layer), shape, spec.init_std)


@functools.partial(jax.jit, static_argnums=(1, 2))  # compiled, as init_params is: the compiler folds the constants
def _normal(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    return std * jax.random.normal(key, shape)


def index_digest(*arrays: npt.ArrayLike) -> str:
    """Returns a short hash of index sets, for lineage entries."""
    h = hashlib.sha256()
    for values in arrays:
        a = np.ascontiguousarray(values)
        h.update(str((a.shape, a.dtype.str)).encode())
        h.update(a.tobytes())
    return h.hexdigest()[:16]
