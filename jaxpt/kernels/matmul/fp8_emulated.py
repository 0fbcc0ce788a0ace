"""The numbers of `fp8` without its units: factors are rounded to 8 bits, and multiplied in the dtype that they had.

For tests and for comparisons of the loss on whatever machine there is; slower than the plain product.
"""

import jax
from jax.typing import DTypeLike

from jaxpt.kernels.matmul.call import MatmulCall, contracted
from jaxpt.kernels.matmul.quantised import SummedAxes, quantised_product
from jaxpt.kernels.matmul.scaling import Quantised


def refuses(call: MatmulCall) -> str | None:
    """Takes every call."""
    return None


def run(equation: str, x: jax.Array, w: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.matmul.dispatch.matmul` defines it."""
    return quantised_product(x, w, contracted(equation), _dot)


def _dot(a: Quantised, b: Quantised, axes: SummedAxes, dtype: DTypeLike, exact: bool) -> jax.Array:
    x, w = (q.values.astype(dtype) * q.scale.astype(dtype) for q in (a, b))
    return jax.lax.dot_general(x, w, (axes, ((), ())), precision=jax.lax.Precision.HIGHEST)
