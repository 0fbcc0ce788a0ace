"""Carries out a rewrite on arrays in memory: on the host, under `jit` with output shardings, on optimizer moments."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.models import Model, ParamSpec, flatten, unflatten
from jaxpt.models.params import Params, Tree
from jaxpt.reshape.ops import Array, Mix, Op
from jaxpt.reshape.rewrite import ParamRule, Rewrite, Term, draw

LayerTables = Sequence[Sequence[Array | None]]  # per term and op: the op's numbers, of one layer or of all
MakeSlice = Callable[[Mapping[str, jax.Array], LayerTables, jax.Array | int | None], jax.Array]

CHUNK_BYTES = 256 << 20  # host arrays are worked on in pieces of this size where arithmetic is needed


def reshaped(model: Model, rewrite: Rewrite, shardings: Tree[NamedSharding] | None = None) -> Model:
    """Returns the model that `rewrite` makes of `model`, with the rewrite's entry added to its lineage.

    Args:
        model: its config must be the rewrite's source.
        rewrite: the transform.
        shardings: as in `apply`.
    """
    if model.config != rewrite.source:
        raise ValueError("the rewrite was made for another config")
    params = apply(rewrite, model.params, shardings)
    return Model(rewrite.target, params, model.tokenizer, (*model.lineage, rewrite.entry))


def apply(rewrite: Rewrite, params: Params, shardings: Tree[NamedSharding] | None = None, *, moment: int = 0) -> Params:
    """Returns the parameters that `rewrite` makes of `params`; each keeps the dtype of what it comes from.

    Args:
        rewrite: the transform.
        params: nested dict of arrays as `param_specs(rewrite.source)` declares it; numpy arrays stay on the host.
        shardings: tree of `NamedSharding` for the result. Each parameter is then made under `jit`, layer by layer,
            and no device holds a full copy of what is split.
        moment: 0 for parameters; 1 or 2 where `params` holds Adam's first or second moments, which follow the inverse
            of the scale (Adam's m' = m / a and v' = v / a^2 for W' = a W); fresh values start with zero.
    """
    old = flatten(params)
    where = flatten(shardings) if shardings is not None else {}
    out: dict[str, Array] = {}
    for path, rule in rewrite.rules.items():
        spec = rewrite.specs[path]
        rule = _moments(rule, moment) if moment else rule
        leaves = {t.source: old[t.source] for t in rule if t.source is not None}
        dtype = _dtype(leaves)
        if where or any(isinstance(a, jax.Array) for a in leaves.values()):
            out[path] = _device(path, spec, rule, leaves, dtype, where.get(path))
        else:
            out[path] = _host(path, spec, rule, {name: np.asarray(leaf) for name, leaf in leaves.items()}, dtype)
    return unflatten(out)


def _dtype(leaves: Mapping[str, Array]) -> np.dtype:
    return next((leaf.dtype for leaf in leaves.values()), np.dtype(np.float32))


def _moments(rule: ParamRule, power: int) -> ParamRule:
    """The rule for moments: inverse scales, and no fresh terms (their moments are zero)."""
    kept = tuple(
        Term(t.source, tuple(op.moment(power) for op in t.ops), t.layers) for t in rule if t.source is not None
    )
    return kept or (Term(None, (), None, seed=-1),)


def build_slice(
    path: str, spec: ParamSpec, rule: ParamRule, slices: Sequence[np.ndarray | None], layer: int | None, dtype: np.dtype
) -> np.ndarray:
    """Returns one output slice on the host.

    Args:
        path: the output parameter.
        spec: its entry in the axis table.
        rule: how it is made.
        slices: the input slice of each term, None for fresh values.
        layer: the output layer's place in its stack, None without layers.
        dtype: of the result.
    """
    total = None
    for term, x in zip(rule, slices):
        if x is None:
            x = np.asarray(_fresh(spec, term, path, layer))
        y = _run_chunked(term.ops, x, layer, dtype, len(rule) > 1)
        total = y if total is None else total + y
    assert total is not None
    return total if total.dtype == dtype else total.astype(dtype)


def _run_chunked(ops: tuple[Op, ...], x: np.ndarray, layer: int | None, dtype: np.dtype, wide: bool) -> np.ndarray:
    """Runs ops on a host slice; where they do arithmetic on a large slice, in pieces of a dimension none touches."""
    tables = [op.table(layer) for op in ops]
    exact = all(op.exact for op in ops)

    def run(piece: np.ndarray) -> np.ndarray:
        if not exact:
            piece = piece.astype(np.float32)
        for op, table in zip(ops, tables):
            piece = np.asarray(op.on(piece, table))
        return piece if wide else piece.astype(dtype, copy=False)

    shape = x.shape
    for op in ops:
        shape = op.shape(shape)
    touched = {d for op in ops for d in op.touched}
    free = [d for d in range(x.ndim) if d not in touched]
    if x.nbytes <= CHUNK_BYTES or len(shape) != x.ndim or not free or exact:
        return run(x)
    dim = max(free, key=lambda d: x.shape[d])
    step = max(1, x.shape[dim] * CHUNK_BYTES // x.nbytes)
    out = np.empty(shape, np.float32 if wide else dtype)
    for start in range(0, x.shape[dim], step):
        at = tuple(slice(start, start + step) if d == dim else slice(None) for d in range(x.ndim))
        out[at] = run(x[at])
    return out


def _host(path: str, spec: ParamSpec, rule: ParamRule, leaves: Mapping[str, np.ndarray], dtype: np.dtype) -> np.ndarray:
    if not spec.stacked:
        slices = [None if t.source is None else leaves[t.source] for t in rule]
        return build_slice(path, spec, rule, slices, None, dtype)
    out = np.empty(spec.shape, dtype)
    for layer in range(spec.shape[0]):
        slices = [None if t.source is None else leaves[t.source][int(t.layers[layer])] for t in rule]  # type: ignore[index]
        out[layer] = build_slice(path, spec, rule, slices, layer, dtype)
    return out


def _device(
    path: str,
    spec: ParamSpec,
    rule: ParamRule,
    leaves: Mapping[str, Array],
    dtype: np.dtype,
    sharding: NamedSharding | None,
) -> jax.Array:
    one = make_slice(path, spec, rule, dtype, sharding)
    if any(isinstance(op, Mix) and op.per_layer for term in rule for op in term.ops):
        return _layer_by_layer(one, spec, rule, leaves, dtype, sharding)
    return jax.jit(make_leaf(one, spec, rule), out_shardings=sharding)(leaves, leaf_tables(spec, rule))


def _layer_by_layer(
    one: MakeSlice,
    spec: ParamSpec,
    rule: ParamRule,
    leaves: Mapping[str, Array],
    dtype: np.dtype,
    sharding: NamedSharding | None,
) -> jax.Array:
    """One call per layer, so that only one of the matrices is there, which may be larger than the parameter."""
    empty = jax.jit(lambda: jnp.zeros(spec.shape, dtype), out_shardings=sharding)
    fill = jax.jit(lambda out, *at: out.at[at[-1]].set(one(*at)), donate_argnums=0, out_shardings=sharding)
    out = empty()
    for layer in range(spec.shape[0]):
        out = fill(out, leaves, [[op.table(layer) for op in term.ops] for term in rule], layer)
    return out


def leaf_tables(spec: ParamSpec, rule: ParamRule) -> LayerTables:
    """Returns the numbers a rule's ops need, as arrays: stacked along layers where they differ by layer."""
    tables: list[list[Array | None]] = []
    for term in rule:
        values: list[Array | None] = []
        for op in term.ops:
            if op.tables is None:
                values.append(None)
            elif op.per_layer:
                values.append(np.stack([np.asarray(op.table(l)) for l in range(spec.shape[0])]))
            else:
                values.append(np.asarray(op.tables))
        tables.append(values)
    return tables


def make_leaf(
    one: MakeSlice, spec: ParamSpec, rule: ParamRule
) -> Callable[[Mapping[str, jax.Array], LayerTables], jax.Array]:
    """Returns the function `(leaves, tables of all layers) -> leaf` that makes a parameter of slices made by `one`."""

    def of(layer: jax.Array, tables: LayerTables) -> LayerTables:
        return [
            [v if v is None or not op.per_layer else v[layer] for op, v in zip(term.ops, values)]
            for term, values in zip(rule, tables)
        ]

    def make(leaves: Mapping[str, jax.Array], tables: LayerTables) -> jax.Array:
        if not spec.stacked:
            return one(leaves, tables, None)
        return jax.lax.map(lambda l: one(leaves, of(l, tables), l), jnp.arange(spec.shape[0]))

    return make


def make_slice(
    path: str, spec: ParamSpec, rule: ParamRule, dtype: np.dtype, sharding: NamedSharding | None
) -> MakeSlice:
    """Returns the function `(leaves, tables of this layer, layer) -> slice` of one parameter, to be compiled.

    Where a sharding is given, each op sees its own dimensions whole and another dimension split instead (an
    all-to-all), so that no device holds a whole slice.
    """
    place = _Placement(sharding, spec)

    def one(leaves: Mapping[str, jax.Array], tables: LayerTables, layer: jax.Array | int | None) -> jax.Array:
        total: jax.Array | None = None
        for term, values in zip(rule, tables):
            x: Array
            if term.source is None:
                x = _fresh(spec, term, path, layer).astype(jnp.float32)
            else:
                x = leaves[term.source]
                x = x if term.layers is None else x[jnp.asarray(term.layers)[layer]]
            if not all(op.exact for op in term.ops) or len(rule) > 1:
                x = x.astype(jnp.float32)
            for op, table in zip(term.ops, values):
                x = op.on(place.beside(jnp.asarray(x), op.dims), None if table is None else jnp.asarray(table))
            total = jnp.asarray(x) if total is None else total + x
        assert total is not None
        return place.final(total.astype(dtype))

    return one


def _fresh(spec: ParamSpec, term: Term, path: str, layer: jax.Array | int | None) -> jax.Array:
    if term.seed < 0:
        return jnp.zeros(spec.shape[1:] if spec.stacked else spec.shape, jnp.float32)
    return draw(spec, term.seed, path, layer)


class _Placement:
    """Where a slice lies between ops: the mesh axes of the result's dimensions, moved off those an op needs whole."""

    def __init__(self, sharding: NamedSharding | None, spec: ParamSpec) -> None:
        self.mesh = sharding.mesh if sharding is not None else None
        parts = list(sharding.spec) if sharding is not None else []
        parts += [None] * (len(spec.shape) - len(parts))
        self.parts = parts[1:] if spec.stacked else parts

    def beside(self, x: jax.Array, dims: tuple[int, ...]) -> jax.Array:
        """Moves the mesh axes that split `dims` to the longest other dimension they divide; the rest stays put."""
        if self.mesh is None or not dims:
            return x
        parts = [_names(p) for p in self.parts] if len(self.parts) == x.ndim else [()] * x.ndim
        moved = tuple(a for d in dims for a in parts[d]) if len(self.parts) == x.ndim else self._all()
        parts = [() if d in dims else p for d, p in enumerate(parts)]
        free = [d for d in range(x.ndim) if d not in dims and x.shape[d] % self._ways((*parts[d], *moved)) == 0]
        if not moved or not free:
            return x
        dim = max(free, key=lambda d: x.shape[d] // self._ways(parts[d]))
        parts[dim] = (*parts[dim], *moved)
        spec = PartitionSpec(*[p or None for p in parts])
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def _all(self) -> tuple[str, ...]:
        return tuple(a for p in self.parts for a in _names(p))

    def _ways(self, axes: tuple[str, ...]) -> int:
        assert self.mesh is not None
        return int(np.prod([self.mesh.shape[a] for a in axes], dtype=np.int64))

    def final(self, x: jax.Array) -> jax.Array:
        """Lays the finished slice as the result is to lie."""
        if self.mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*self.parts)))


def _names(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if part is None else part if isinstance(part, tuple) else (part,)
