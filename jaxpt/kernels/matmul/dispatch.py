"""A layer's product by an implementation that applies: by name, or the first of a preference that does not refuse."""

from collections.abc import Sequence
from typing import Protocol

import jax

from jaxpt.kernels.choice import Chosen, Preferred, first_that_applies, parse_names
from jaxpt.kernels.matmul import fp8, fp8_emulated, plain
from jaxpt.kernels.matmul.call import MatmulCall, call_of


class MatmulKernel(Protocol):
    """An implementation; each is a module of this folder."""

    def refuses(self, call: MatmulCall) -> str | None:
        """Returns why this implementation does not apply to `call`, None where it does."""

    def run(self, equation: str, x: jax.Array, w: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
        """Returns the product as `matmul` defines it."""


IMPLEMENTATIONS: dict[str, MatmulKernel] = {"plain": plain, "fp8": fp8, "fp8_emulated": fp8_emulated}

# 8 bits are no platform's own choice: what they cost a model is for whoever trains it to weigh.
PREFERENCES: dict[str, tuple[Preferred, ...]] = dict.fromkeys(("tpu", "gpu", "cpu"), (Preferred("plain"),))


def parse_preference(value: str, where: str = "matmul") -> tuple[str, ...]:
    """Returns the names in `value`, one or several separated by commas; () for "auto", each platform's own list.

    Raises:
        JaxptError: an unknown name.
    """
    return parse_names(value, list(IMPLEMENTATIONS), where)


def choose(call: MatmulCall, names: Sequence[str] = ()) -> Chosen:
    """Returns the first implementation of `names` (empty: of the platform's preference) that takes `call`.

    Raises:
        JaxptError: each refuses, with the reasons.
    """
    order = [Preferred(name) for name in names] or PREFERENCES.get(call.platform, (Preferred("plain"),))
    return first_that_applies(IMPLEMENTATIONS, order, call, call.rows, f"matmul={','.join(names)}", "plain")


def matmul(
    equation: str,
    x: jax.Array,
    w: jax.Array,
    *,
    implementation: str = "auto",
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Returns `x [..., *K]` times `w [*K, *N]`, `[..., *N]`, in their dtype.

    Args:
        equation: which dimensions are K, as `jnp.einsum` has it: "bsnh,nhd->bsd".
        x: activations.
        w: a layer's matrix.
        implementation: a name from `IMPLEMENTATIONS`, several separated by commas (the first that applies), or "auto":
            the list of the platform in `PREFERENCES`.
        precision: of the plain product.

    Raises:
        JaxptError: what was asked for by name does not apply, with the reason.
    """
    chosen = choose(call_of(equation, x, w), parse_preference(implementation))
    return IMPLEMENTATIONS[chosen.name].run(equation, x, w, precision)
