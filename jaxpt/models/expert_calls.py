"""Which grouped products and exchanges a model's experts make: what kernels are chosen by, and compared at."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.kernels import exchange
from jaxpt.kernels.exchange import ExchangeCall
from jaxpt.kernels.exchange.call import call_of as exchange_call_of
from jaxpt.kernels.grouped import GroupedCall, choose
from jaxpt.kernels.grouped.call import call_of
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.experts import split_over
from jaxpt.models.layer_names import named_layers
from jaxpt.models.moe_config import MoeConfig


def expert_calls(config: ModelConfig, compute: Compute, rows: int, length: int) -> dict[tuple[GroupedCall], list[int]]:
    """Returns the numbers of the layers that make each different call, on one device of the mesh in force.

    A model without dropless experts makes none.

    Args:
        config: the model.
        compute: dtype, precision and kernel of the products.
        rows: of a microbatch.
        length: tokens of a row.
    """
    found = _dropless(config, rows, length)
    if found is None:
        return {}
    moe, layers, ways, width, sent = found
    tokens = sent * ways  # all may come to one device's experts
    out: dict[tuple[GroupedCall], list[int]] = {}
    for before, after in ((config.embed, width), (width, config.embed)):
        x = jax.ShapeDtypeStruct((tokens, before), compute.jnp_dtype)
        w = jax.ShapeDtypeStruct((moe.experts // ways, before, after), compute.jnp_dtype)
        out[(call_of(x, w, compute.precision),)] = layers
    return out


def exchange_calls(
    config: ModelConfig, compute: Compute, rows: int, length: int
) -> dict[tuple[ExchangeCall], list[int]]:
    """Returns the numbers of the layers whose tokens travel to other devices' experts; arguments as `expert_calls`."""
    found = _dropless(config, rows, length)
    if found is None or found.ways == 1:
        return {}
    groups, dtype = found.moe.experts // found.ways, str(jnp.dtype(compute.jnp_dtype))
    return {(exchange_call_of(found.sent, config.embed, groups, found.ways, dtype),): found.layers}


class _Dropless(NamedTuple):
    """Dropless layers on a mesh: devices that share the experts, a device's width of them, and the rows it sends."""

    moe: MoeConfig
    layers: list[int]
    ways: int
    width: int
    sent: int


def _dropless(config: ModelConfig, rows: int, length: int) -> _Dropless | None:
    moe = config.moe
    layers = [i for i, layer in enumerate(config.layers) if layer.ffn == "moe"]
    if moe is None or not layers or moe.capacity_factor is not None:
        return None
    mesh = jax.sharding.get_abstract_mesh()
    at = split_over(moe, rows, mesh)
    ways, width, parts = 1, moe.mlp, 1
    if at is not None:
        ways, parts = at.ways, math.prod(mesh.shape[a] for a in at.rows)
        width = moe.mlp // (mesh.shape[at.width] if at.width else 1)
    return _Dropless(moe, layers, ways, width, rows // parts * length * moe.experts_per_token)


def describe_expert_choice(call: GroupedCall, layers: Sequence[int], names: Sequence[str] = ()) -> str:
    """Returns a line: which layers, the product's shape, what computes it, and why each kernel before it does not."""
    shape = f"{call.groups} of {call.width_in:,} × {call.width_out:,}, {call.rows:,} rows, {call.dtype}"
    return f"experts of {named_layers(layers)} ({shape}): {choose(call, names).words}"


def describe_exchange_choice(call: ExchangeCall, layers: Sequence[int], names: Sequence[str] = ()) -> str:
    """Returns a line: which layers, what travels between devices and by what, and why not by what comes before it."""
    shape = f"{call.rows:,} rows of {call.width:,} from each of {call.ways} devices, {call.dtype}"
    return f"tokens to experts of {named_layers(layers)} ({shape}): {exchange.choose(call, names).words}"
