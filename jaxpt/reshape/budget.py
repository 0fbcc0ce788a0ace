"""How large a masked model is expected to be, and the shape that meets a budget of parameters or bytes.

`keep` says how likely each position stays, by axis, in the layout of `jaxpt.models.masks`.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError, nearest
from jaxpt.models import ModelConfig, ParamSpec, flatten, param_specs
from jaxpt.models.masks import Gates, gate_axes, layers_with
from jaxpt.models.size import active_param_count, param_count
from jaxpt.reshape.subclone import top, uniform_index
from jaxpt.reshape.target import MOE_LENGTHS, lengths, lengths_of

LAST = ("mlp", "expert_mlp", "shared_mlp", "embed", "heads", "kv_heads", "experts", "layers")  # meets what is left
WITHIN = 0.01
STEPS = {"embed": 64, "mlp": 64, "expert_mlp": 64, "shared_mlp": 64}


@dataclass(frozen=True)
class Budget:
    """How large the cut model may be: one of `parameters`, `active_parameters` and `bytes`."""

    parameters: int | None = option(None, "all of the model's")
    active_parameters: int | None = option(None, "those that one token passes through")
    bytes: int | None = option(None, "of the weights, and of the KV cache of `rows` sequences of `length` tokens")
    bytes_per_value: int = option(2, "of a weight and of a cached number")
    rows: int = option(1, "sequences that the KV cache holds")
    length: int = option(4096, "tokens of each")
    multiple_of: dict[str, int] = option(STEPS, "what lengths are rounded to, by axis; others: 1")

    def __post_init__(self) -> None:
        if len(self.given) > 1:
            raise JaxptError(f"budget has {' and '.join(self.given)}; give one of them")
        for name, value in {**self.given, "rows": self.rows, "length": self.length}.items():
            if value < 1:
                raise JaxptError(f"budget.{name} is {value}, it must be at least 1")
        for axis, step in self.multiple_of.items():
            if axis not in LAST:
                raise JaxptError(f"budget.multiple_of.{axis} is not an axis{nearest(axis, LAST)}")
            if step < 1:
                raise JaxptError(f"budget.multiple_of.{axis} is {step}, it must be at least 1")

    @property
    def given(self) -> dict[str, int]:
        """What is limited, and to how much; empty: no budget."""
        known = {name: getattr(self, name) for name in ("parameters", "active_parameters", "bytes")}
        return {name: value for name, value in known.items() if value is not None}

    @property
    def limit(self) -> int:
        """The number that is to be met."""
        (value,) = self.given.values()
        return value

    def of(self, config: ModelConfig) -> int:
        """Returns what a model takes of the budget."""
        if self.parameters is not None:
            return param_count(config)
        if self.active_parameters is not None:
            return active_param_count(config)
        cache = sum(2 * config.kv_heads * config.head_dim * self._cached(layer.window) for layer in config.layers)
        return (param_count(config) + cache) * self.bytes_per_value

    def expected(self, config: ModelConfig, keep: Gates) -> jax.Array:
        """Returns what a model is expected to take where each position stays independently with probability `keep`."""
        counts = expected_counts(config, keep, active=self.active_parameters is not None)
        total = sum(counts.values(), jnp.zeros(()))
        if self.bytes is None:
            return total
        heads = _rows(config, "kv_heads", keep).sum(-1) * _rows(config, "layers", keep)
        cached = jnp.array([2 * config.head_dim * self._cached(layer.window) for layer in config.layers], jnp.float32)
        return (total + jnp.sum(heads * cached)) * self.bytes_per_value

    def _cached(self, window: int | None) -> int:
        return self.rows * (self.length if window is None else min(window, self.length))


def _rows(config: ModelConfig, axis: str, keep: Gates) -> jax.Array:
    """The retention along an axis, 1 where it has no gates."""
    return keep[axis] if axis in keep else jnp.ones(gate_axes(config).get(axis, (0,)))


def expected_counts(config: ModelConfig, keep: Gates, *, active: bool = False) -> dict[str, jax.Array]:
    """Returns the expected number of entries of every parameter that are left, by its path, float32 scalars.

    Exact where positions stay independently: no parameter has two dimensions under one gate. With `active`, of routed
    experts only those count that a token goes to, at their mean size.
    """
    specs = flatten(param_specs(config))
    return {path: _expected(config, path, spec, keep, active) for path, spec in specs.items()}


def _expected(config: ModelConfig, path: str, spec: ParamSpec, keep: Gates, active: bool) -> jax.Array:
    structure = path.split("/")[1] if spec.stacked else None
    of = list(config.layers_of(structure)) if structure else []

    def rows(axis: str) -> jax.Array:
        have = list(layers_with(config, axis))
        return _rows(config, axis, keep)[np.array([have.index(l) for l in of])]

    count: jax.Array = rows("layers") if spec.stacked else jnp.ones(())
    for axis, length in zip(spec.axes, spec.shape):
        if axis == "layers" or (axis == "experts" and "expert_mlp" in spec.axes):
            continue
        if axis == "embed":
            count = count * jnp.sum(_rows(config, axis, keep))
        elif axis == "kv_heads":
            count = count * jnp.sum(rows(axis), axis=-1)
        elif axis == "heads":
            whole = rows("heads") * jnp.repeat(rows("kv_heads"), config.group, axis=-1)
            count = count * jnp.sum(whole, axis=-1)
        elif axis == "expert_mlp":
            each = rows("experts") * jnp.sum(rows(axis), axis=-1)
            count = count * jnp.sum(each, axis=-1)
            if active:
                assert config.moe is not None
                count = count * config.moe.experts_per_token / jnp.sum(rows("experts"), axis=-1)
        elif axis in ("mlp", "shared_mlp", "experts"):
            count = count * jnp.sum(rows(axis), axis=-1)
        else:
            count = count * length
    return jnp.sum(count)


def resized(config: ModelConfig, want: Mapping[str, int], rank: np.ndarray | None = None) -> ModelConfig:
    """Returns a config of these lengths; the layers are those of the highest `rank [L]`, or evenly spaced ones."""
    moe, count = config.moe, len(config.layers)
    if moe is not None:
        inner: dict[str, Any] = {field: want[name] for name, field in MOE_LENGTHS.items()}
        moe = replace(moe, **inner)
    sizes: dict[str, Any] = {name: want[name] for name in ("embed", "heads", "kv_heads", "mlp")}
    places = uniform_index(count, want["layers"]) if rank is None else top(np.asarray(rank), want["layers"])
    return config.replace(**sizes, layers=tuple(config.layers[i] for i in places), moe=moe)


def expected_lengths(config: ModelConfig, keep: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the length that each gated axis is expected to have: the mean over its rows; `heads`: per kv head."""
    out = {}
    for axis, each in keep.items():
        row = config.group if axis == "heads" else each.shape[-1]
        out[axis] = float(np.mean(np.sum(np.asarray(each, np.float64).reshape(-1, row), axis=-1)))
    return out


def shape_for(
    config: ModelConfig, expected: Mapping[str, float], budget: Budget, rank: np.ndarray | None = None
) -> tuple[dict[str, int], str | None]:
    """Returns every length of the shape that meets a budget, and a line where its granularity does not allow 1 %.

    Each axis is rounded to its multiple next to what is expected; the last one (`mlp`, where it has gates) is what
    meets the budget. Where that misses it by more than 1 %, the other axes move by one multiple up or down, the nearest
    shape first.

    Args:
        config: the model that is cut.
        expected: see `expected_lengths`; the axes that may change.
        budget: what is to be met.
        rank: of layers, which says which of them stay.

    Raises:
        JaxptError: no axis has gates.
    """
    last = next((axis for axis in LAST if axis in expected), None)
    if last is None:
        raise JaxptError("a budget needs at least one axis with gates")
    axes = [axis for axis in expected if axis != last]
    size_of = lambda want: budget.of(resized(config, want, rank))  # noqa: E731
    choices = itertools.product(*(_choices(config, axis, budget, expected[axis]) for axis in axes))
    moved = lambda chosen: sum((n / expected[a] - 1) ** 2 for a, n in zip(axes, chosen))  # noqa: E731
    best: tuple[float, dict[str, int]] | None = None
    for chosen in sorted(choices, key=moved):
        for length in _last(config, last, dict(zip(axes, chosen)), budget, size_of):
            want = all_lengths(config, {**dict(zip(axes, chosen)), last: length})
            off = abs(size_of(want) / budget.limit - 1)
            if best is None or off < best[0]:
                best = off, want
        assert best is not None
        if best[0] <= WITHIN:
            return best[1], None
    assert best is not None
    line = f"the budget of {budget.limit:,} is missed: {size_of(best[1]):,} is the nearest that the multiples allow"
    return best[1], line


def _size(config: ModelConfig, axis: str) -> int:
    return config.group if axis == "heads" else lengths_of(config)[axis]


def _least(config: ModelConfig, axis: str) -> int:
    return config.moe.experts_per_token if axis == "experts" and config.moe is not None else 1


def _multiples(config: ModelConfig, axis: str, budget: Budget) -> np.ndarray:
    """The lengths that an axis may have, ascending: multiples, and its own length."""
    size, step = _size(config, axis), budget.multiple_of.get(axis, 1)
    allowed = {n for n in range(step, size + 1, step) if n >= _least(config, axis)} | {size}
    return np.array(sorted(allowed))


def _choices(config: ModelConfig, axis: str, budget: Budget, expected: float) -> list[int]:
    """The length next to what is expected, and its two neighbours."""
    allowed = _multiples(config, axis, budget)
    at = int(np.argmin(np.abs(allowed - expected)))
    return [int(n) for n in allowed[max(0, at - 1) : at + 2]]


def _last(
    config: ModelConfig,
    axis: str,
    others: Mapping[str, int],
    budget: Budget,
    size_of: Callable[[Mapping[str, int]], int],
) -> list[int]:
    """The lengths of the last axis on both sides of the budget, which grows with it."""
    allowed = _multiples(config, axis, budget)
    low, high = 0, len(allowed) - 1
    while low < high:
        middle = (low + high) // 2
        enough = size_of(all_lengths(config, {**others, axis: int(allowed[middle])})) >= budget.limit
        low, high = (low, middle) if enough else (middle + 1, high)
    return [int(n) for n in allowed[max(0, low - 1) : low + 1]]


def all_lengths(config: ModelConfig, changed: Mapping[str, int]) -> dict[str, int]:
    """Returns all lengths of a model of which some changed; `heads` in `changed` counts those of one kv head."""
    kv = changed.get("kv_heads", config.kv_heads)
    heads = kv * changed.get("heads", config.group)
    return lengths(config, {**changed, "kv_heads": kv, "heads": heads})


def rounded_lengths(config: ModelConfig, expected: Mapping[str, float]) -> dict[str, int]:
    """Returns every length of the shape next to what is expected of each axis, without any multiples."""
    least = {axis: _least(config, axis) for axis in expected}
    return all_lengths(config, {axis: max(least[axis], round(length)) for axis, length in expected.items()})
