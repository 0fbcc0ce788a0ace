"""SOAP (Vyas et al. 2024, arXiv 2409.11321, algorithm 3): Adam in the slowly turning eigenbasis of Shampoo.

No release of a JAX library has it; this file follows the authors' own code (github.com/nikhilvyas/SOAP, commit
a1e5535), whose numbers the tests compare. Where that keeps the gradient's mean in the turned basis and turns it with
every new basis, here it is kept as the gradient lies, which is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import sequential_vmap

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.specs import ParamSpec, Specs, flatten
from jaxpt.optim.matrices import MatrixDims, as_matrices, matrix_dims
from jaxpt.optim.optimizer import Optimizer, fraction, positive

SIDES = ("rows", "columns")


@dataclass(frozen=True)
class Soap(Optimizer):
    """Adam's means are taken of the gradient in the eigenbases of the means of G Gᵀ and Gᵀ G of each matrix.

    The first step only takes those means. Gains and biases move by Adam in their own basis.
    """

    beta1: float = option(0.95, "decay rate of the gradient's mean")
    beta2: float = option(0.95, "decay rate of the squared gradient's mean")
    gram_beta: float | None = option(None, "decay rate of the means of G Gᵀ and Gᵀ G; None: beta2")
    every: int = option(10, "steps between two turns of the basis")
    largest: int = option(10_000, "a side with more rows (a vocabulary) keeps its own basis")
    normalize: bool = option(False, "scale each update to root mean square 1: helps where `every` is about 100")
    eps: float = option(1e-8, "added to the root of the squared gradient's mean")

    moments: ClassVar[Mapping[str, int]] = {}
    epsilons: ClassVar[Mapping[str, int]] = {"eps": 1}

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """State `{steps, mean, turned, gram_rows, gram_columns, basis_rows, basis_columns}`.

        `turned` is the second moment in the turned basis, so that no state but `mean` follows its parameter's entries.
        """
        (spec,) = flatten(specs).values()
        if not _is_matrix(spec):
            return self._transformation({})
        dims = matrix_dims(spec) if spec.fan_in_axes else MatrixDims(spec.shape, (), (0,), (1,))
        sides = {s: n for s, n in zip(SIDES, (dims.fan_in, dims.fan_out)) if n <= self.largest}
        return as_matrices(self._transformation(sides), dims)

    def state_axes(self, name: str, spec: ParamSpec) -> tuple[str | None, ...] | None:
        """Rows and columns of several axes follow the first of them."""
        if name == "steps" or not _is_matrix(spec):
            return None
        rows, columns = spec.fan_in_axes[:1] or spec.axes[:1], spec.fan_out_axes[:1]
        if name in ("mean", "turned"):
            return (*rows, *columns)
        return (*rows, *rows) if name.endswith("rows") else (*columns, *columns)

    def _transformation(self, sides: Mapping[str, int]) -> optax.GradientTransformation:
        """The rule for one `[fan in, fan out]`, or, without sides, for an array of any shape."""

        def init(params: optax.Params) -> "SoapState":
            zeros = optax.tree.zeros_like(params)
            square = {s: jax.tree.map(lambda p, n=n: jnp.zeros((n, n), p.dtype), params) for s, n in sides.items()}
            eye = {s: jax.tree.map(lambda p, n=n: jnp.eye(n, dtype=p.dtype), params) for s, n in sides.items()}
            grams, bases = [square.get(s) for s in SIDES], [eye.get(s) for s in SIDES]
            return SoapState(jnp.zeros((), jnp.int32), zeros, zeros, *grams, *bases)

        def update(
            grads: optax.Updates, state: "SoapState", params: optax.Params | None = None
        ) -> tuple[optax.Updates, "SoapState"]:
            (g,), form = jax.tree.flatten(grads)
            mean, turned = jax.tree.leaves(state.mean)[0], jax.tree.leaves(state.turned)[0]
            grams = _by_side(state.gram_rows, state.gram_columns)
            bases = _by_side(state.basis_rows, state.basis_columns)
            move, mean, turned = self._step(g, mean, turned, bases, state.steps)
            grams, bases, turned = self._turn(g, grams, bases, turned, state.steps)
            leaves = [move, mean, turned, *(x.get(s) for x in (grams, bases) for s in SIDES)]
            updates, *after = [None if x is None else jax.tree.unflatten(form, [x]) for x in leaves]
            return updates, SoapState(optax.safe_increment(state.steps), *after)

        return optax.GradientTransformation(init, update)

    def _step(
        self, g: jax.Array, mean: jax.Array, turned: jax.Array, bases: "Sides", count: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The update and the two means after step `count`, which is 0 for the first: that moves nothing."""
        after = self.beta1 * mean + (1 - self.beta1) * g
        squares = self.beta2 * turned + (1 - self.beta2) * jnp.square(_turned(g, bases))
        u = _turned_back(_turned(after, bases) / (jnp.sqrt(squares) + self.eps), bases)
        if self.normalize:
            u = u / (1e-30 + jnp.sqrt(jnp.mean(jnp.square(u))))
        t = jnp.maximum(count, 1).astype(jnp.float32)
        u = u * jnp.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
        first = count == 0
        return jnp.where(first, 0.0, u), jnp.where(first, mean, after), jnp.where(first, turned, squares)

    def _turn(
        self, g: jax.Array, grams: "Sides", bases: "Sides", turned: jax.Array, count: jax.Array
    ) -> tuple["Sides", "Sides", jax.Array]:
        """The means of G Gᵀ and Gᵀ G, and every so many steps their bases, with `turned` in their new order."""
        if not grams:
            return grams, bases, turned
        beta = self.beta2 if self.gram_beta is None else self.gram_beta
        products = {"rows": lambda: g @ g.T, "columns": lambda: g.T @ g}
        grams = {s: beta * gram + (1 - beta) * products[s]() for s, gram in grams.items()}

        def first(turned: jax.Array) -> tuple["Sides", jax.Array]:
            return {s: _eigenvectors(gram) for s, gram in grams.items()}, turned

        def again(turned: jax.Array) -> tuple["Sides", jax.Array]:
            """One power iteration, in the order of the estimated eigenvalues."""
            out = {}
            for s, gram in grams.items():
                order = jnp.argsort(-jnp.diag(bases[s].T @ gram @ bases[s]))
                turned = jnp.take(turned, order, axis=SIDES.index(s))
                out[s] = _orthonormal(gram @ bases[s][:, order])
            return out, turned

        which = jnp.where(count == 0, 0, jnp.where(count % self.every == 0, 1, 2))
        return grams, *jax.lax.switch(which, [first, again, lambda turned: (bases, turned)], turned)

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range."""
        super().check(where)
        for name in ("beta1", "beta2", "gram_beta"):
            if getattr(self, name) is not None:
                fraction(f"{where}.{name}", getattr(self, name))
        positive(f"{where}.eps", self.eps)
        for name in ("every", "largest"):
            if getattr(self, name) < 1:
                raise JaxptError(f"{where}.{name} is {getattr(self, name)}, it must be at least 1")


class SoapState(NamedTuple):
    """Steps; means of the gradient and, in the turned basis, of its square; per side the mean product and its basis."""

    steps: jax.Array
    mean: optax.Updates
    turned: optax.Updates
    gram_rows: optax.Updates | None
    gram_columns: optax.Updates | None
    basis_rows: optax.Updates | None
    basis_columns: optax.Updates | None


Sides = dict[str, jax.Array]  # by name, those that are turned


# Under vmap these go matrix by matrix. jaxlib's LAPACK calls share a batch out over the very threads that run them, and
# wait: as many calls at once as there are threads wait for ever (seen with jaxlib 0.10.2 on two cores).
@sequential_vmap
def _eigenvectors(gram: jax.Array) -> jax.Array:
    """By falling eigenvalue."""
    return jnp.flip(jnp.linalg.eigh(gram)[1], axis=1)


@sequential_vmap
def _orthonormal(x: jax.Array) -> jax.Array:
    return jnp.linalg.qr(x)[0]


def _is_matrix(spec: ParamSpec) -> bool:
    """Whether a piece has rows and columns: all that multiplies or is looked up, not gains and biases."""
    return bool(spec.fan_out_axes) and (bool(spec.fan_in_axes) or "vocab" in spec.axes)


def _by_side(rows: optax.Updates | None, columns: optax.Updates | None) -> Sides:
    return {s: jax.tree.leaves(tree)[0] for s, tree in zip(SIDES, (rows, columns)) if tree is not None}


def _turned(x: jax.Array, bases: Sides) -> jax.Array:
    x = bases["rows"].T @ x if "rows" in bases else x
    return x @ bases["columns"] if "columns" in bases else x


def _turned_back(x: jax.Array, bases: Sides) -> jax.Array:
    x = bases["rows"] @ x if "rows" in bases else x
    return x @ bases["columns"].T if "columns" in bases else x
