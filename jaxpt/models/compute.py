"""How a model is computed, as opposed to what it is: dtypes, remat, attention implementation."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError, nearest

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}

# What multiplies matrices, besides kernels that libraries call by a name of their own: cuDNN's attention begins so.
_PRODUCTS = frozenset({"dot_general", "ragged_dot_general", "ragged_dot", "pallas_call", "mosaic_gpu_call"})


def _kernels_saveable(primitive: Any, *_: Any, **__: Any) -> bool:
    """Saves what products and kernels give: what is computed again only reads and writes memory."""
    return primitive.name in _PRODUCTS or primitive.name.startswith("dot_product_attention")


# What a block's backward pass finds saved; everything else it recomputes.
REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "kernels": jax.checkpoint_policies.save_from_both_policies(
        _kernels_saveable, jax.checkpoint_policies.save_only_these_names("attention_kernel")
    ),
    "branches": jax.checkpoint_policies.save_only_these_names("attention", "ffn"),
    "offload_branches": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["attention", "ffn"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


@dataclass(frozen=True)
class Compute:
    """Choices that leave the function the same up to rounding.

    `dtype` is what matrix products run in; norms, softmax, logits and loss are always float32. `residual_dtype` is
    the residual stream's (None: `dtype`). `remat` is a name from `REMAT_POLICIES`. `attention` is a name from
    `jaxpt.kernels.attention.IMPLEMENTATIONS`, several separated by commas (the first that applies), or "auto", each
    platform's own list; likewise for experts `grouped_matmul` from `jaxpt.kernels.grouped.IMPLEMENTATIONS`, and
    `expert_exchange` from `jaxpt.kernels.exchange.IMPLEMENTATIONS`, how tokens travel to the devices that hold them;
    and `matmul` from `jaxpt.kernels.matmul.IMPLEMENTATIONS`, for the matrices of attention and of dense and shared
    feed-forward networks; experts, router, embedding and head are multiplied in their dtype whatever it is.
    `router_dtype` is the dtype of router logits and their softmax; below float32 it is for comparisons only. `unroll`
    writes the layers out: a loop over them copies each layer's activations into stacks and back. With `compare_kernels`
    a training run compares each kernel that it would take with the reference, on its device and at its shapes, and
    takes none that is wrong.

    Raises:
        JaxptError: an unknown name, with its nearest neighbour.
    """

    dtype: str = option("float32", "of matrix products: float32, bfloat16 or float16")
    residual_dtype: str | None = option(None, "of the residual stream; None: dtype")
    remat: str = option("none", "what is computed again: none, full, dots, dots_no_batch, kernels, branches, …")
    attention: str = option("auto", "a kernel of jaxpt.kernels.attention, or several as a,b, by preference")
    router_dtype: str = option("float32", "of router logits; below float32 for comparisons only")
    unroll: bool = option(False, "layers one after the other in the program, not a loop: faster, compiles longer")
    compare_kernels: bool = option(True, "compare each kernel with its reference before the first step")
    grouped_matmul: str = option("auto", "a kernel of jaxpt.kernels.grouped for experts, or several as a,b")
    expert_exchange: str = option("auto", "how tokens reach experts on other devices: of jaxpt.kernels.exchange")
    matmul: str = option("auto", "of jaxpt.kernels.matmul: auto is plain, in dtype; fp8 by name, or several as a,b")

    def __post_init__(self) -> None:
        from jaxpt.kernels import attention, exchange, grouped, matmul

        known: dict[str, Sequence[str | None]] = {
            "dtype": [*_DTYPES],
            "residual_dtype": [None, *_DTYPES],
            "remat": [*REMAT_POLICIES],
            "router_dtype": [*_DTYPES],
        }
        for name, names in known.items():
            value = getattr(self, name)
            if value not in names:
                raise JaxptError(f"compute.{name} is {value!r}, it must be one of {names}{nearest(value, names)}")
        attention.parse_preference(self.attention, "compute.attention")
        grouped.parse_preference(self.grouped_matmul, "compute.grouped_matmul")
        exchange.parse_preference(self.expert_exchange, "compute.expert_exchange")
        matmul.parse_preference(self.matmul, "compute.matmul")

    @property
    def unquantised(self) -> "Compute":
        """For what measures a model: in 8 bits a token's logits would depend on the batch it is in."""
        return dataclasses.replace(self, matmul="auto")

    @property
    def jnp_dtype(self) -> DTypeLike:
        """`dtype` as a jax.numpy dtype."""
        return _DTYPES[self.dtype]

    @property
    def jnp_residual_dtype(self) -> DTypeLike:
        """The residual stream's dtype."""
        return _DTYPES[self.residual_dtype or self.dtype]

    @property
    def jnp_router_dtype(self) -> DTypeLike:
        """Dtype of router logits and softmax."""
        return _DTYPES[self.router_dtype]

    @property
    def precision(self) -> jax.lax.Precision | None:
        """float32 means float32: TPUs and GPUs would otherwise round the factors to bfloat16 or TF32."""
        return jax.lax.Precision.HIGHEST if self.dtype == "float32" else None
