"""AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.specs import Specs
from jaxpt.optim.optimizer import Optimizer, fraction, positive


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Mean of the gradient over the root of the mean of its square, both corrected for their start at 0."""

    beta1: float = option(0.9, "decay rate of the gradient's mean")
    beta2: float = option(0.95, "decay rate of the squared gradient's mean")
    eps: float = option(1e-8, "added to the root of the squared gradient's mean")
    moments_dtype: Literal["float32", "bfloat16"] = option(
        "float32", "what both means are kept in; computed in float32 all the same"
    )

    moments: ClassVar[Mapping[str, int]] = {"mu": 1, "nu": 2}
    epsilons: ClassVar[Mapping[str, int]] = {"eps": 1}

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """`scale_by_adam`; state `{count, mu, nu}`."""
        exact = optax.scale_by_adam(self.beta1, self.beta2, self.eps)
        return exact if self.moments_dtype == "float32" else _kept_in_bfloat16(exact)

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range."""
        super().check(where)
        fraction(f"{where}.beta1", self.beta1)
        fraction(f"{where}.beta2", self.beta2)
        positive(f"{where}.eps", self.eps)
        for name in ("beta1", "beta2") if self.moments_dtype == "bfloat16" else ():
            if 1 - getattr(self, name) < 2 * LEAST_CHANGE:
                raise JaxptError(
                    f"{where}.{name} is {getattr(self, name)}: in bfloat16 the mean would stand still, as rounding "
                    f"swallows such small changes; at most {1 - 2 * LEAST_CHANGE:.4g}, or moments_dtype=float32"
                )


LEAST_CHANGE = 2.0**-8  # relative spacing of bfloat16


def _kept_in_bfloat16(exact: optax.GradientTransformation) -> optax.GradientTransformation:
    """Rounds the moments of `exact` between two steps; the update is of the means before they are rounded."""

    def rounded(state: Any, dtype: Any) -> Any:
        to = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)  # noqa: E731
        return state._replace(mu=to(state.mu), nu=to(state.nu))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = exact.update(grads, rounded(state, jnp.float32), params)
        return updates, rounded(state, jnp.bfloat16)

    return optax.GradientTransformation(lambda params: rounded(exact.init(params), jnp.bfloat16), update)
