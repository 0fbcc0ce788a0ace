"""Which products with matrices a model's layers make: what implementations are chosen by, and compared at."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxpt.kernels.matmul import MatmulCall, choose
from jaxpt.kernels.matmul.call import call_here
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.layer_names import named_layers

Widths = dict[tuple[int, int], list[str]]  # width in and out -> names of the matrices


def matmul_calls(config: ModelConfig, compute: Compute, rows: int, length: int) -> dict[tuple[MatmulCall], list[int]]:
    """Returns the numbers of the layers that make each different call, on the devices of the mesh in force.

    None where the option is the default, as nothing is chosen then. Experts' products are `expert_calls`.

    Args:
        config: the model.
        compute: dtype and implementation of the products.
        rows: of a microbatch.
        length: tokens of a row.
    """
    out: dict[tuple[MatmulCall], list[int]] = {}
    if compute.matmul in ("auto", "plain"):
        return out
    dtype = str(jnp.dtype(compute.jnp_dtype))
    for number, layer in enumerate(config.layers):
        for widths, names in _widths(config, layer.ffn).items():
            call = call_here(rows * length, *widths, dtype, tuple(names))
            out.setdefault((call,), []).append(number)
    return out


def describe_matmul_choice(call: MatmulCall, layers: Sequence[int], names: Sequence[str] = ()) -> str:
    """Returns a line: which matrices, their shape, what multiplies them, and why what comes before it does not."""
    shape = f"{call.width_in:,} × {call.width_out:,}, {call.rows:,} rows, {call.dtype}"
    return f"{', '.join(call.names)} of {named_layers(layers)} ({shape}): {choose(call, names).words}"


def _widths(config: ModelConfig, ffn: str) -> Widths:
    d, queries, keys = config.embed, config.heads * config.head_dim, config.kv_heads * config.head_dim
    made = [("q", d, queries), ("k", d, keys), ("v", d, keys), ("o", queries, d)]
    mixture = config.moe if ffn == "moe" else None
    prefix, width = ("", config.mlp) if mixture is None else ("shared_", mixture.shared_mlp)
    if width:
        made += [(f"{prefix}gate", d, width), (f"{prefix}up", d, width), (f"{prefix}down", width, d)]
    out: Widths = {}
    for name, width_in, width_out in made:
        out.setdefault((width_in, width_out), []).append(name)
    return out
