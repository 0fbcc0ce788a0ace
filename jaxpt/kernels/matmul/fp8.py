"""In 8 bits, by the units of NVIDIA GPUs since Ada and of TPUs since the seventh generation.

XLA is given a product of 8-bit factors, which its GPU compiler hands to cuBLASLt (or Triton, whichever is faster) with
the scale, and a TPU's multiplies natively. Factors that are converted to bfloat16 and multiplied by their scales, from
which the compiler has to guess the product that is meant, are a pattern that it can miss.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxpt.kernels.machine import architecture
from jaxpt.kernels.matmul.call import MatmulCall, contracted
from jaxpt.kernels.matmul.quantised import SummedAxes, quantised_product
from jaxpt.kernels.matmul.scaling import Quantised, product_scale
from jaxpt.sharding.platform import platform

TPUS = ("TPU7", "TPU8")  # how they call themselves; earlier ones multiply other 8-bit formats or none
EMULATED = "fp8_emulated gives its numbers, not its speed"


def refuses(call: MatmulCall) -> str | None:
    """Returns why `call` is not multiplied in 8 bits."""
    kind = call.device_kind or "unknown"
    if call.platform == "tpu" and not call.device_kind.startswith(TPUS):
        return f"it needs a TPU7x or newer, this is {kind}; {EMULATED}"
    if call.platform == "gpu" and (architecture(call.device_kind) or 0) < 89:
        return f"it needs Ada, Hopper or Blackwell, this is {kind}; {EMULATED}"
    if call.platform not in ("tpu", "gpu"):
        return f"it needs a GPU or TPU with 8-bit units, this is {kind}; {EMULATED}"
    if call.dtype != "bfloat16":
        return f"it is for compute.dtype=bfloat16, not {call.dtype}"
    if call.width_in % 16 or call.width_out % 16:
        return f"widths {call.width_in} and {call.width_out} are not both multiples of 16"
    return None


def run(equation: str, x: jax.Array, w: jax.Array, precision: jax.lax.Precision | None) -> jax.Array:
    """Returns the product as `jaxpt.kernels.matmul.dispatch.matmul` defines it; `precision` does not apply."""
    return quantised_product(x, w, contracted(equation), _dot)


def _dot(a: Quantised, b: Quantised, axes: SummedAxes, dtype: DTypeLike, exact: bool) -> jax.Array:
    """Multiplies 8-bit factors; gradients with every partial sum in float32, as they are e5m2 and cancel more.

    Hopper keeps 14 bits of the sums unless it is asked for more, which costs speed; TPUs keep float32.
    """
    precision = jax.lax.Precision.HIGHEST if exact and platform() == "gpu" else None
    product = jax.lax.dot_general(
        a.values, b.values, (axes, ((), ())), precision=precision, preferred_element_type=jnp.dtype(dtype)
    )
    return product * product_scale(a, b).astype(dtype)
