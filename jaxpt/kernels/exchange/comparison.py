"""An exchange against the same computed where the rows are, on the run's own mesh: forward and gradient, bit for bit.

Rows are small whole numbers and each expert multiplies by a power of two: no dtype rounds them, and nothing is allowed.
"""

from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxpt.kernels.comparison import Comparison
from jaxpt.kernels.exchange.call import AXIS, ExchangeCall
from jaxpt.kernels.exchange.dispatch import IMPLEMENTATIONS

ROWS = 1024  # of each device at most
LARGEST = 8  # of the whole numbers: exact in bfloat16, times 4 as well


def compare(name: str, call: ExchangeCall) -> Comparison:
    """Compares the exchange `name` on the mesh in force; every process of it calls this.

    Raises:
        Exception: whatever XLA raises.
    """
    sides = jax.jit(lambda key: differences(name, call, key))(jax.random.key(0))
    errors = {part: float(share) for part, share in zip(("out", "gradient"), sides)}
    wrong = {part: share for part, share in errors.items() if share != 0}  # NaN is wrong
    reason = None
    if wrong:
        shares = ", ".join(f"{share:.2%} of the {part}" for part, share in wrong.items())
        reason = f"it does not bring rows to their experts and back: {shares} is wrong, 0 is allowed"
    return Comparison(errors, dict.fromkeys(errors, 0.0), reason)


def facts(call: ExchangeCall) -> dict[str, Any]:
    """Returns what a comparison depends on."""
    return {**asdict(call), "processes": jax.process_count()}


def differences(name: str, call: ExchangeCall, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The share of values that are wrong, forward and of the gradient, over all devices of the mesh."""
    axes = tuple(axis for axis, _ in call.mesh)
    run = jax.shard_map(
        lambda key: _on_one_device(name, call, key, axes),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return run(key)


def _on_one_device(name: str, call: ExchangeCall, key: jax.Array, axes: tuple[str, ...]) -> tuple[jax.Array, jax.Array]:
    experts, n = call.ways * call.groups, min(call.rows, ROWS)
    key = jax.random.fold_in(key, jax.lax.axis_index(axes))
    keys = jax.random.split(key, 3)
    rows, d_out = (_whole_numbers(k, (n, call.width), call.dtype) for k in keys[:2])
    expert = jnp.sort(jax.random.randint(keys[2], (n,), 0, experts + 1))  # the last goes nowhere
    sizes = jnp.bincount(expert, length=experts).reshape(call.ways, call.groups)
    factor = jnp.asarray([1.0, 2.0, 4.0, 0.5, 0.25], call.dtype)[jnp.arange(experts) % 5]

    def travelling(rows: jax.Array) -> jax.Array:
        came = jax.lax.all_to_all(sizes, AXIS, 0, 0, tiled=True)
        arrived = IMPLEMENTATIONS[name].run(rows, sizes, came)
        mine = jax.lax.axis_index(AXIS) * call.groups + jnp.arange(call.groups)
        own = jnp.append(factor[mine], jnp.asarray(jnp.nan, call.dtype))  # what is computed for room must not come back
        return arrived.back(arrived.rows * own[arrived.expert][:, None])

    here = jnp.append(factor, jnp.zeros((), call.dtype))[expert][:, None]
    got, back = jax.vjp(travelling, rows)
    wrong = (got != rows * here, back(d_out)[0] != d_out * here)
    out, gradient = (jax.lax.pmean(jnp.mean(w, dtype=jnp.float32), axes) for w in wrong)
    return out, gradient


def _whole_numbers(key: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jax.random.randint(key, shape, -LARGEST, LARGEST + 1).astype(dtype)
