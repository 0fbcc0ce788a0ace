"""Parameters as matrices: which of them multiply hidden features, and a rule for matrices over tensors of more axes."""

import math
from dataclasses import dataclass

import jax
import optax

from jaxpt.models.specs import ParamSpec

INDEX_AXES = ("vocab", "experts")  # entries are things to choose from, not features: their outputs are logits


def is_hidden_matrix(spec: ParamSpec) -> bool:
    """Whether a parameter maps hidden features to hidden features; gains, biases, embedding, head, router do not."""
    return bool(spec.fan_in_axes and spec.fan_out_axes) and not {*spec.fan_in_axes, *spec.fan_out_axes} & {*INDEX_AXES}


@dataclass(frozen=True)
class MatrixDims:
    """The dimensions of one piece of a parameter as those of a matrix `[fan in, fan out]`, or of several of them.

    `batch` count matrices, `reduction` are contracted with the input, `output` are the output's.
    """

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    reduction: tuple[int, ...]
    output: tuple[int, ...]

    @property
    def fan_in(self) -> int:
        """Rows of one matrix."""
        return math.prod(self.shape[d] for d in self.reduction)

    @property
    def fan_out(self) -> int:
        """Columns of one matrix."""
        return math.prod(self.shape[d] for d in self.output)

    @property
    def order(self) -> tuple[int, ...]:
        """All dimensions: those of the batch, the rows, the columns."""
        return (*self.batch, *self.reduction, *self.output)


def matrix_dims(spec: ParamSpec, *, per_head: bool = False) -> MatrixDims:
    """Returns the dimensions of a piece (without stacked axes) by its `fan_in_axes` and `fan_out_axes`.

    Args:
        spec: with both kinds of axes.
        per_head: each head is a matrix of its own where a side is heads times `head_dim`.
    """
    heads = {"heads", "kv_heads"} if per_head and "head_dim" in spec.axes else set()
    reduction = tuple(spec.axes.index(a) for a in spec.fan_in_axes if a not in heads)
    output = tuple(spec.axes.index(a) for a in spec.fan_out_axes if a not in heads)
    batch = tuple(d for d in range(len(spec.axes)) if d not in (*reduction, *output))
    return MatrixDims(spec.shape, batch, reduction, output)


def as_matrices(core: optax.GradientTransformation, dims: MatrixDims) -> optax.GradientTransformation:
    """Returns `core` applied to one parameter laid out as `[fan in, fan out]`; its state has that layout too."""
    back = tuple(sorted(range(len(dims.order)), key=lambda d: dims.order[d]))
    ordered = tuple(dims.shape[d] for d in dims.order)

    def view(tree: optax.Params) -> optax.Params:
        return jax.tree.map(lambda x: x.transpose(dims.order).reshape(dims.fan_in, dims.fan_out), tree)

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = core.update(view(grads), state, None if params is None else view(params))
        return jax.tree.map(lambda u: u.reshape(ordered).transpose(back), updates), state

    return optax.GradientTransformation(lambda params: core.init(view(params)), update)
