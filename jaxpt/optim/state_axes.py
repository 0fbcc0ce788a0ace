"""Axes of optimizer states: which dimension of a state follows which axis of its parameter; sharding by them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.models.specs import ParamSpec

Shape = tuple[int, ...]
Axes = tuple[str | None, ...]
Followers = list[set[int]]  # for each dimension of an array, the parameter's dimensions that it follows


@dataclass(frozen=True)
class StateSpec:
    """What one array of an optimizer's state is; None in `axes`: a dimension that follows no axis of the parameter.

    A dimension may follow an axis with another length, as the number of an axis' blocks does.
    """

    shape: Shape
    axes: Axes
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize


def infer_axes(shapes_of: Callable[[ParamSpec], list[Shape]], spec: ParamSpec) -> list[Axes | None]:
    """Returns the axes of each array of a state; None for one whose shapes do not say.

    One length of the parameter is changed at a time; the dimensions of the state that change with it follow its axis.
    First by 1, up and then down, from lengths that differ by 2 at least, so that their order stays and a rule for the
    two largest dimensions still chooses the same two. Where that shows nothing (a rule for blocks of an axis), by 2.

    Args:
        shapes_of: shapes of the state's arrays for a parameter, in a fixed order.
        spec: of the parameter.
    """
    ranks = [len(shape) for shape in shapes_of(spec)]
    trials = [
        (_apart(spec.shape, 1), lambda n: n + 1, lambda a, b: a != b),
        (_apart(spec.shape, -1), lambda n: n - 1, lambda a, b: a != b),
        (spec.shape, lambda n: 2 * n, lambda a, b: b == 2 * a),
    ]
    evidence: list[list[Followers | None]] = [[] for _ in ranks]
    for trial in trials:
        for seen, one in zip(evidence, _followers(shapes_of, spec, len(ranks), *trial)):
            seen.append(one)
        if all(_decided(rank, seen) for rank, seen in zip(ranks, evidence)):
            break
    return [_axes(spec, rank, seen) for rank, seen in zip(ranks, evidence)]


def _decided(rank: int, evidence: Sequence[Followers | None]) -> bool:
    """Whether one trial has shown one axis for every dimension of an array."""
    return rank == 0 or any(e is not None and len(e) == rank and all(len(d) == 1 for d in e) for e in evidence)


def _apart(shape: Shape, sign: int) -> Shape:
    """The lengths, each moved up (or down, for `sign` -1) as far as needed to differ from the next by 2, in order."""
    out, last = list(shape), None
    for d in sorted(range(len(shape)), key=lambda d: (shape[d], d), reverse=sign < 0):
        out[d] = shape[d] if last is None else sign * max(sign * shape[d], sign * last + 2)
        last = out[d]
    return tuple(out)


def _axes(spec: ParamSpec, rank: int, evidence: Sequence[Followers | None]) -> Axes | None:
    """The axes of an array by what was seen of it: the first that shows one axis for a dimension decides."""
    valid = [e for e in evidence if e is not None and len(e) == rank]
    out: list[str | None] = []
    for dim in range(rank):
        seen = [e[dim] for e in valid if e[dim]]
        if not valid or (seen and all(len(dims) > 1 for dims in seen)):
            return None
        dims = next((dims for dims in seen if len(dims) == 1), None)
        out.append(spec.axes[min(dims)] if dims else None)
    return tuple(out)


def _followers(
    shapes_of: Callable[[ParamSpec], list[Shape]],
    spec: ParamSpec,
    count: int,
    base: Shape,
    changed: Callable[[int], int],
    follows: Callable[[int, int], bool],
) -> list[Followers | None]:
    """For each dimension of each array, the dimensions of the parameter it follows; None: cannot be inferred."""
    before = _shapes(shapes_of, spec, base)
    if before is None or len(before) != count:
        return [None] * count
    out: list[Followers | None] = [[set() for _ in shape] for shape in before]
    for d, n in enumerate(base):
        after = _shapes(shapes_of, spec, (*base[:d], changed(n), *base[d + 1 :]))
        for i, shape in enumerate(before):
            followers = out[i]
            if after is None or len(after) != count or len(after[i]) != len(shape):
                out[i] = None
            elif followers is not None:
                for j in range(len(shape)):
                    if follows(shape[j], after[i][j]):
                        followers[j].add(d)
    return out


def _shapes(shapes_of: Callable[[ParamSpec], list[Shape]], spec: ParamSpec, shape: Shape) -> list[Shape] | None:
    if any(n < 1 for n in shape):
        return None
    try:
        return shapes_of(dataclasses.replace(spec, shape=shape))
    except Exception:  # a rule may refuse lengths that it never meets; whatever it raises, these shapes say nothing
        return None


def state_sharding(state: StateSpec, spec: ParamSpec, param: NamedSharding) -> NamedSharding:
    """Returns how a state lies: each dimension is split as its parameter's dimension of the same axis is.

    Of two dimensions that follow one axis (the factor of a matrix' rows) the first is split. A dimension that the
    devices do not divide stays whole.

    Args:
        state: the state's spec.
        spec: its parameter's.
        param: its parameter's sharding.
    """
    parts = dict(zip(spec.axes, param.spec))
    out: list[str | tuple[str, ...] | None] = []
    used: set[str] = set()
    for length, axis in zip(state.shape, state.axes):
        part = parts.get(axis) if axis is not None else None
        mesh_axes = () if part is None else (part,) if isinstance(part, str) else tuple(part)
        if length % math.prod(param.mesh.shape[a] for a in mesh_axes) or used & set(mesh_axes):
            part, mesh_axes = None, ()
        used |= set(mesh_axes)
        out.append(part)
    return NamedSharding(param.mesh, PartitionSpec(*_stripped(out)))


def _stripped(parts: Sequence[str | tuple[str, ...] | None]) -> Sequence[str | tuple[str, ...] | None]:
    kept = len(parts)
    while kept and parts[kept - 1] is None:
        kept -= 1
    return parts[:kept]
