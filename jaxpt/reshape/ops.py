"""What a transform may do to one layer's slice of one parameter: take, scale, mix, split, repeat.

Every op is a frozen description with tables; `op.on(x, table)` computes it with numpy on host arrays and with
jax.numpy on device arrays, so that one description serves streaming, `jit` and optimizer moments. A table is either
shared by all layers or has one entry per output layer (`per_layer=True`); `op.table(l)` picks it.
"""

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


class PerLayer(Protocol):
    """Matrices of layers that are computed or read on demand, where all together are too large to hold."""

    def __len__(self) -> int: ...

    def __getitem__(self, layer: int) -> np.ndarray: ...


Matrices = np.ndarray | PerLayer
Tables = np.ndarray | PerLayer | None


def numpy_of(x: Array) -> ModuleType:
    """Returns numpy for host arrays, jax.numpy for all others."""
    return np if isinstance(x, np.ndarray) else jnp


@dataclass(frozen=True, eq=False)
class Op:
    """A map from one layer's slice to another; `dims` are the dimensions of the slice (without `layers`) it touches."""

    per_layer: bool = dataclasses.field(default=False, kw_only=True)

    exact = False  # whether values are only moved, so that no arithmetic in float32 is needed

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimensions that must be whole while the op runs; the others may be split over devices or chunks."""
        return ()

    @property
    def touched(self) -> tuple[int, ...]:
        """Dimensions along which it is not the same everywhere: a slice must not be cut into pieces along them."""
        return self.dims

    @property
    def tables(self) -> Tables:
        """The op's numbers: an array (or one per layer on demand), `[L, ...]` when `per_layer`; or None."""
        return None

    def table(self, layer: int | None) -> Array | None:
        """Returns the numbers of output layer `layer` (its place in the stack)."""
        tables = self.tables
        if not self.per_layer or tables is None:
            assert tables is None or isinstance(tables, np.ndarray)
            return tables
        assert layer is not None
        return tables[layer]

    def on(self, x: Array, table: Array | None) -> Array:
        """Computes the op on a slice."""
        raise NotImplementedError

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the slice's shape afterwards."""
        return shape

    def moment(self, power: int) -> "Op":
        """Returns the op that carries mean gradients (power 1) or mean squared gradients (power 2) along."""
        return self


@dataclass(frozen=True, eq=False)
class Take(Op):
    """Position i of dimension `dim` becomes position `index[i]` of the input; -1 is a new position, zero.

    Selection, permutation, duplication and padding are all this. `index`: `[k]`, or `[L, k]` per layer. With `by`,
    the positions taken depend on the position along dimension `by`: `[n, k]`, or `[L, n, k]` per layer.
    """

    dim: int
    index: np.ndarray
    by: int | None = None

    exact = True

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def touched(self) -> tuple[int, ...]:
        return (self.dim,) if self.by is None else (self.dim, self.by)

    @property
    def tables(self) -> np.ndarray:
        return self.index

    def on(self, x: Array, table: Array | None) -> Array:
        assert table is not None
        xp = numpy_of(x)
        new = bool(np.any(self.index < 0))
        at = xp.maximum(table, 0) if new else table
        if self.by is None:
            out = xp.take(x, at, axis=self.dim)
            mask = [-1 if d == self.dim else 1 for d in range(x.ndim)]
        else:
            mask = [at.shape[0] if d == self.by else at.shape[1] if d == self.dim else 1 for d in range(x.ndim)]
            at, table = (a if self.by < self.dim else a.T for a in (at, table))
            out = xp.take_along_axis(x, at.reshape(mask), axis=self.dim)
        return xp.where((table >= 0).reshape(mask), out, xp.zeros((), x.dtype)) if new else out

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: self.dim], self.index.shape[-1], *shape[self.dim + 1 :])


@dataclass(frozen=True, eq=False)
class Scale(Op):
    """Multiplies along `dim` (None: the whole slice) by `factor`: `[k]` or a number, with a leading `[L]` per layer.

    Several dimensions have a factor of as many. `offset` is added to the stored value before the factor and taken away
    after it (gains stored as deviations from one).
    """

    dim: int | tuple[int, ...] | None
    factor: np.ndarray | np.float32
    offset: float = 0.0

    @property
    def touched(self) -> tuple[int, ...]:
        return () if self.dim is None else (self.dim,) if isinstance(self.dim, int) else self.dim

    @property
    def tables(self) -> np.ndarray:
        return np.asarray(self.factor)

    def on(self, x: Array, table: Array | None) -> Array:
        assert table is not None
        if self.dim is not None:
            lengths = dict(zip(self.touched, table.shape))
            table = table.reshape([lengths.get(d, 1) for d in range(x.ndim)])
        return x * table if self.offset == 0 else (x + self.offset) * table - self.offset

    def moment(self, power: int) -> "Scale":
        f = np.asarray(self.factor, np.float32)
        inverse = np.where(f == 0, 0, 1 / np.where(f == 0, 1, f)).astype(np.float32)
        return dataclasses.replace(self, factor=inverse**power, offset=0.0)


@dataclass(frozen=True, eq=False)
class Mix(Op):
    """Multiplies the adjacent dimensions `first … first + count - 1`, read as one, by a matrix; they become `out`.

    `matrix`: `[prod(out), n]`, or L of them (`per_layer`).
    """

    first: int
    count: int
    matrix: Matrices
    out: tuple[int, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.first + self.count))

    @property
    def tables(self) -> Tables:
        return self.matrix

    def on(self, x: Array, table: Array | None) -> Array:
        assert table is not None
        before, after = x.shape[: self.first], x.shape[self.first + self.count :]
        flat = x.reshape(*before, -1, *after)
        y: Array
        if isinstance(x, np.ndarray):
            y = np.tensordot(table, flat, axes=(1, self.first))
        else:
            y = jnp.tensordot(table, flat, axes=(1, self.first), precision=jax.lax.Precision.HIGHEST)
        y = numpy_of(x).moveaxis(y, 0, self.first)
        return y.reshape(*before, *self.out, *after)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: self.first], *self.out, *shape[self.first + self.count :])

    def moment(self, power: int) -> "Mix":
        # a gradient g of W' = R W is seen as R^T g' by W, so g' is fitted by the pseudo-inverse of R^T
        if isinstance(self.matrix, np.ndarray) and not self.per_layer:
            return dataclasses.replace(self, matrix=_fit(self.matrix, power))
        return dataclasses.replace(self, matrix=_Fitted(self.matrix, power))


class _Fitted:
    """Per-layer `_fit` of a mix's matrices, computed on demand."""

    def __init__(self, matrices: Matrices, power: int) -> None:
        self.matrices, self.power = matrices, power

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, layer: int) -> np.ndarray:
        return _fit(self.matrices[layer], self.power)


def _fit(matrix: np.ndarray, power: int) -> np.ndarray:
    return (np.linalg.pinv(np.asarray(matrix, np.float64)).T ** power).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Split(Op):
    """Cuts dimension `dim` into `count` equal runs, which become a new dimension `to` (mlp into experts × mlp)."""

    dim: int
    count: int
    to: int

    exact = True

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.dim,)

    def on(self, x: Array, table: Array | None) -> Array:
        xp = numpy_of(x)
        return xp.moveaxis(x.reshape(*x.shape[: self.dim], self.count, -1, *x.shape[self.dim + 1 :]), self.dim, self.to)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape[self.dim] % self.count:
            raise ValueError(f"split: length {shape[self.dim]} is not a multiple of {self.count}")
        rest = [*shape[: self.dim], shape[self.dim] // self.count, *shape[self.dim + 1 :]]
        rest.insert(self.to, self.count)
        return tuple(rest)


@dataclass(frozen=True, eq=False)
class Repeat(Op):
    """Puts `count` equal copies of the slice along a new dimension `to` (one network into equal experts)."""

    count: int
    to: int

    exact = True

    def on(self, x: Array, table: Array | None) -> Array:
        xp = numpy_of(x)
        return xp.repeat(xp.expand_dims(x, self.to), self.count, axis=self.to)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: self.to], self.count, *shape[self.to :])
