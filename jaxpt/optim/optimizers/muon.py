"""Muon (Jordan et al. 2024, github.com/KellerJordan/Muon): hidden matrices move by orthogonalized momentum."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError, nearest
from jaxpt.models.specs import ParamSpec, Specs, flatten
from jaxpt.optim.matrices import MatrixDims, is_hidden_matrix, matrix_dims
from jaxpt.optim.optimizer import Optimizer, UpdateSize, fraction, not_negative, positive
from jaxpt.optim.whole_matrices import on_whole_matrices

SCALES = ("rms", "shape")


@dataclass(frozen=True)
class Muon(Optimizer):
    """Momentum, orthogonalized by Newton-Schulz steps; embedding, head, routers, gains and biases move by AdamW.

    With `scale` "rms" an update's root mean square is about `rms` (Liu et al., arXiv 2502.16982, eq. 4): AdamW's
    learning rate and decay fit. With "shape" it is multiplied by √max(1, fan out / fan in), so that its spectral norm
    is what features of any width need (Jordan's and optax's choice).
    """

    momentum: float = option(0.95, "decay rate of the gradient's mean")
    nesterov: bool = option(True, "look ahead: the mean and the gradient at hand are averaged once more")
    newton_schulz_steps: int = option(5, "steps of the orthogonalization")
    newton_schulz_dtype: str = option("float32", "of its products and of what devices exchange: float32, bfloat16")
    scale: str = option("rms", "of an update: rms (as AdamW's), shape (√max(1, fan out / fan in))")
    rms: float = option(0.2, "root mean square of an update, for scale=rms")
    per_head: bool = option(False, "q, k, v and o are orthogonalized head by head")
    per_neuron: bool = option(False, "NorMuon: each output's row is divided by the root of its mean square over steps")
    neuron_beta: float = option(0.95, "decay rate of that mean square")
    adam_learning_rate: float | None = option(
        None, "peak for what AdamW moves, where learning_rate is Muon's; stages keep the ratio; None: the same"
    )
    beta1: float = option(0.9, "AdamW's decay rate of the gradient's mean")
    beta2: float = option(0.95, "AdamW's decay rate of the squared gradient's mean")
    eps: float = option(1e-8, "added to AdamW's root")

    moments: ClassVar[Mapping[str, int]] = {"mu": 1, "nu": 2}
    epsilons: ClassVar[Mapping[str, int]] = {"eps": 1}

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """State `{muon_count, mu}`, with `neurons` for NorMuon; `{count, mu, nu}` of what AdamW moves."""
        (spec,) = flatten(specs).values()
        if not is_hidden_matrix(spec):
            return optax.scale_by_adam(self.beta1, self.beta2, self.eps)
        dims = matrix_dims(spec, per_head=self.per_head)
        stages = [_momentum(self.momentum, self.nesterov), self._orthogonalize(spec, dims)]
        if self.per_neuron:
            stages.append(_per_neuron(self.neuron_beta, dims))
        factor = self.rms * math.sqrt(max(dims.fan_in, dims.fan_out))
        if self.scale == "shape":
            factor = math.sqrt(max(1.0, dims.fan_out / dims.fan_in))
        return optax.chain(*stages, optax.scale(factor))

    def rate(self, spec: ParamSpec) -> float:
        """AdamW's learning rate over Muon's for what AdamW moves, else 1."""
        if self.adam_learning_rate is None or is_hidden_matrix(spec):
            return 1.0
        return self.adam_learning_rate / self.learning_rate

    def update_size(self, spec: ParamSpec) -> UpdateSize:
        """As `Optimizer.update_size`, by `scale` for what Muon moves."""
        if not is_hidden_matrix(spec):
            return "adam"
        return "spectral" if self.scale == "shape" else "rms"

    def _orthogonalize(self, spec: ParamSpec, dims: MatrixDims) -> optax.GradientTransformation:
        """`scale_by_muon` without momentum, over whole matrices; it keeps no state."""
        rows, columns = len(dims.reduction), len(dims.output)
        numbers = MuonDimensionNumbers(tuple(range(1, 1 + rows)), tuple(range(1 + rows, 1 + rows + columns)))
        muon = scale_by_muon(
            beta=0.0, nesterov=False, ns_steps=self.newton_schulz_steps, weight_dimension_numbers=numbers
        )

        def rule(x: jax.Array) -> jax.Array:
            return muon.update(x, muon.init(x))[0]

        whole = on_whole_matrices(rule, spec, dims)

        def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
            return jax.tree.map(lambda x: whole(x.astype(self.newton_schulz_dtype)).astype(x.dtype), updates)

        return optax.stateless(update)

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range."""
        super().check(where)
        for name in ("momentum", "neuron_beta", "beta1", "beta2"):
            fraction(f"{where}.{name}", getattr(self, name))
        for name in ("rms", "eps"):
            positive(f"{where}.{name}", getattr(self, name))
        if self.newton_schulz_steps < 1:
            raise JaxptError(f"{where}.newton_schulz_steps is {self.newton_schulz_steps}, it must be at least 1")
        for name, known in (("scale", SCALES), ("newton_schulz_dtype", ("float32", "bfloat16"))):
            value = getattr(self, name)
            if value not in known:
                raise JaxptError(f"{where}.{name} is {value!r}; known: {', '.join(known)}{nearest(value, known)}")
        if self.adam_learning_rate is not None:
            not_negative(f"{where}.adam_learning_rate", self.adam_learning_rate)
            positive(f"{where}.learning_rate (adam_learning_rate is stated)", self.learning_rate)


class MomentumState(NamedTuple):
    """How many gradients the mean holds, and the mean."""

    muon_count: jax.Array
    mu: optax.Updates


def _momentum(beta: float, nesterov: bool) -> optax.GradientTransformation:
    """The momentum that optax's `scale_by_muon` orthogonalizes, by itself: it needs no whole matrices."""

    def init(params: optax.Params) -> MomentumState:
        return MomentumState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

    def update(
        grads: optax.Updates, state: MomentumState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MomentumState]:
        mu, count = optax.tree.update_moment(grads, state.mu, beta, 1), optax.safe_increment(state.muon_count)
        if not nesterov:
            return optax.tree.bias_correction(mu, beta, count), MomentumState(count, mu)
        ahead = optax.tree.bias_correction(mu, beta, optax.safe_increment(count))
        grads = optax.tree.bias_correction(grads, beta, count)
        return jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, ahead, grads), MomentumState(count, mu)

    return optax.GradientTransformation(init, update)


class NeuronState(NamedTuple):
    """Mean square of the orthogonalized updates of each output (neuron)."""

    neurons: optax.Updates


def _per_neuron(beta: float, dims: MatrixDims) -> optax.GradientTransformation:
    """NorMuon (Li et al., arXiv 2510.05491, algorithm 1): even steps for all neurons, of the same norm as before."""
    matrix, eps = (*dims.reduction, *dims.output), 1e-10

    def init(params: optax.Params) -> NeuronState:
        return NeuronState(jax.tree.map(lambda p: jnp.zeros_like(jnp.mean(p, axis=dims.reduction)), params))

    def update(
        updates: optax.Updates, state: NeuronState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, NeuronState]:
        def mean(v: jax.Array, u: jax.Array) -> jax.Array:
            return beta * v + (1 - beta) * jnp.mean(jnp.square(u), axis=dims.reduction)

        def even(u: jax.Array, v: jax.Array) -> jax.Array:
            w = u / (jnp.sqrt(jnp.expand_dims(v, dims.reduction)) + eps)
            norm = [jnp.sqrt(jnp.sum(jnp.square(x), axis=matrix, keepdims=True)) for x in (u, w)]
            return w * norm[0] / (norm[1] + eps)

        neurons = jax.tree.map(mean, state.neurons, updates)
        return jax.tree.map(even, updates, neurons), NeuronState(neurons)

    return optax.GradientTransformation(init, update)
