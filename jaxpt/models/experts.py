"""Sends tokens to their experts and back: sorted for grouped matmuls, or by all-to-all over the mesh axis `expert`."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from jaxpt.kernels.exchange import exchange
from jaxpt.kernels.grouped import grouped_matmul
from jaxpt.models.compute import Compute
from jaxpt.models.moe_config import MoeConfig
from jaxpt.sharding.activations import ACTIVATION_RULES

ExpertWeights = tuple[jax.Array, jax.Array, jax.Array]  # gate, up [E, D, F], down [E, F, D]


@jax.custom_vjp
def reorder(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """Returns `x[order]` for a permutation; its gradient gathers by `inverse` (a scatter would be slow)."""
    return x[order]


reorder.defvjp(lambda x, order, inverse: (x[order], inverse), lambda inverse, dy: (dy[inverse], None, None))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def spread(x: jax.Array, order: jax.Array, inverse: jax.Array, k: int) -> jax.Array:
    """Returns row i // k of `x` at each i of `order`, a permutation of the k copies of every row; gradient likewise."""
    return x[order // k]


spread.defvjp(
    lambda x, order, inverse, k: (x[order // k], inverse),
    lambda k, inverse, dy: (jnp.sum(dy[inverse].reshape(-1, k, dy.shape[-1]), axis=1), None, None),
)


@dataclass(frozen=True)
class Network:
    """The gated network of every expert: activation, products, and the mesh axis its width is split over."""

    activation: Callable[[jax.Array], jax.Array]
    compute: Compute
    width_axis: str | None = None

    def grouped(self, x: jax.Array, w: ExpertWeights, sizes: jax.Array) -> jax.Array:
        """Of rows `[M, D]` sorted by expert."""
        kind, precision = self.compute.grouped_matmul, self.compute.precision
        mm = functools.partial(grouped_matmul, implementation=kind, precision=precision)
        y = mm(self.activation(mm(x, w[0], sizes)) * mm(x, w[1], sizes), w[2], sizes)
        return y if self.width_axis is None else jax.lax.psum(y, self.width_axis)

    def batched(self, x: jax.Array, w: ExpertWeights) -> jax.Array:
        """Of equally many rows per expert, `[E, C, D]`."""
        mm = functools.partial(jnp.einsum, "ecd,edf->ecf", precision=self.compute.precision)
        y = mm(self.activation(mm(x, w[0])) * mm(x, w[1]), w[2])
        return y if self.width_axis is None else jax.lax.psum(y, self.width_axis)


@dataclass(frozen=True)
class MeshSplit:
    """How a mixture lies on a mesh: mesh axes of its rows, how many devices share the experts, the axis of a width."""

    rows: tuple[str, ...]
    ways: int
    width: str | None


def split_over(config: MoeConfig, rows: int, mesh: AbstractMesh) -> MeshSplit | None:
    """Returns how so many rows and the experts are split over a mesh, None where one device does it all."""
    if mesh.empty or math.prod(mesh.shape.values()) == 1:
        return None
    axes = tuple(a for a in ACTIVATION_RULES["batch"] if mesh.shape.get(a, 1) > 1)
    if axes and rows % math.prod(mesh.shape[a] for a in axes):
        axes = ()  # too few rows to split: every device does them all
    ways = mesh.shape.get("expert", 1) if config.experts % mesh.shape.get("expert", 1) == 0 else 1
    tensor = "tensor" if mesh.shape.get("tensor", 1) > 1 and config.mlp % mesh.shape["tensor"] == 0 else None
    return MeshSplit(axes, ways, tensor)


def mix(
    config: MoeConfig, x: jax.Array, experts: jax.Array, shares: jax.Array, w: ExpertWeights, net: Network
) -> jax.Array:
    """Returns Σ_k shares_k · expert_k(x), `[B, S, D]`, summed in float32.

    With a mesh in force whose axis `expert` is longer than 1, tokens travel to the devices that hold their experts.

    Args:
        config: the layers' facts.
        x: `[B, S, D]` in the compute dtype.
        experts: `[B, S, k]`; `config.experts` stands for none: such a token (padding) goes nowhere, gives zero and
            takes no expert's capacity.
        shares: `[B, S, k]` float32.
        w: the experts' matrices, in the compute dtype.
        net: what an expert computes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    at = split_over(config, x.shape[0], mesh)
    if at is None:
        return _local(config, x, experts, shares, w, net, 1)
    owner = "expert" if at.ways > 1 else None
    tokens = P(at.rows or None, None, None)
    split = Network(net.activation, net.compute, at.width)
    run = jax.shard_map(
        lambda x, experts, shares, w: _local(config, x, experts, shares, w, split, at.ways),
        mesh=mesh,
        in_specs=(tokens, tokens, tokens, (P(owner, None, at.width),) * 2 + (P(owner, at.width, None),)),
        out_specs=tokens,
        check_vma=False,
    )
    return run(x, experts, shares, w)


def observe(
    config: MoeConfig, x: jax.Array, experts: jax.Array, shares: jax.Array, w: ExpertWeights, net: Network
) -> dict[str, jax.Array]:
    """Returns what each expert does on its tokens, as sums over them, float32.

    Arguments as `mix`; tokens of no expert are left out.

    Returns:
        "expert_hidden" Σ share |hidden neuron| `[E, F]`, "expert_out" Σ share |output| `[E]` (L2 norm over D),
        "expert_gated" Σ ĝ |output| `[E]`, ĝ the shares of a token divided by their sum, and "expert_tokens" `[E]`.
    """
    flat = experts.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    sizes = jnp.bincount(flat, length=config.experts)
    rows = jnp.repeat(x.reshape(-1, x.shape[-1]), experts.shape[-1], axis=0)[order]
    mm = functools.partial(grouped_matmul, implementation=net.compute.grouped_matmul, precision=net.compute.precision)
    hidden = net.activation(mm(rows, w[0], sizes)) * mm(rows, w[1], sizes)
    out = jnp.linalg.norm(mm(hidden, w[2], sizes).astype(jnp.float32), axis=-1)
    shares = shares.astype(jnp.float32)
    gates = shares / jnp.maximum(jnp.sum(shares, axis=-1, keepdims=True), 1e-30)
    share, gate, owner = shares.reshape(-1)[order], gates.reshape(-1)[order], flat[order]
    total = functools.partial(jax.ops.segment_sum, segment_ids=owner, num_segments=config.experts)
    return {
        "expert_hidden": total(jnp.abs(hidden.astype(jnp.float32)) * share[:, None]),
        "expert_out": total(out * share),
        "expert_gated": total(out * gate),
        "expert_tokens": sizes.astype(jnp.float32),
    }


def _local(
    config: MoeConfig, x: jax.Array, experts: jax.Array, shares: jax.Array, w: ExpertWeights, net: Network, ways: int
) -> jax.Array:
    """On one device: its tokens `[b, S, D]`, its experts `[E / ways, …]`."""
    k, d = experts.shape[-1], x.shape[-1]
    flat = experts.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    inverse = jnp.argsort(order)
    sizes = jnp.bincount(flat, length=config.experts)
    rows = spread(x.reshape(-1, d), order, inverse, k)
    if config.capacity_factor is not None:
        out = _capacity(config, rows, flat[order], sizes, w, net, ways)
    elif ways > 1:
        out = _exchange(rows, sizes, w, net, ways)
    else:
        out = net.grouped(rows, w, sizes)
    out = reorder(out, inverse, order).reshape(*experts.shape, d)
    return jnp.sum(out.astype(jnp.float32) * shares[..., None], axis=2).astype(x.dtype)


def _capacity(
    config: MoeConfig, rows: jax.Array, expert: jax.Array, sizes: jax.Array, w: ExpertWeights, net: Network, ways: int
) -> jax.Array:
    """At most C rows of each expert; those beyond, and those of no expert, give zero."""
    assert config.capacity_factor is not None
    capacity = max(1, math.ceil(config.capacity_factor * rows.shape[0] / config.experts))
    place = jnp.arange(rows.shape[0]) - (jnp.cumsum(sizes) - sizes)[jnp.minimum(expert, config.experts - 1)]
    kept = (place < capacity) & (expert < config.experts)
    at = jnp.where(kept, expert * capacity + place, config.experts * capacity)  # the last is dropped
    box = jnp.zeros((config.experts * capacity, rows.shape[1]), rows.dtype).at[at].set(rows, mode="drop")
    box = box.reshape(config.experts, capacity, -1)
    if ways > 1:
        box = jax.lax.all_to_all(box, "expert", 0, 1, tiled=True)
    box = net.batched(box, w)
    if ways > 1:
        box = jax.lax.all_to_all(box, "expert", 1, 0, tiled=True)
    box = box.reshape(config.experts * capacity, -1)
    return jnp.where(kept[:, None], box[jnp.where(kept, at, 0)], 0)


def _exchange(rows: jax.Array, sizes: jax.Array, w: ExpertWeights, net: Network, ways: int) -> jax.Array:
    """Dropless over devices: rows go to their experts' owners, are computed there and come back."""
    arrived, counts = exchange(rows, sizes.reshape(ways, -1), implementation=net.compute.expert_exchange)
    order = jnp.argsort(arrived.expert, stable=True)
    inverse = jnp.argsort(order)
    out = net.grouped(reorder(arrived.rows, order, inverse), w, counts)
    return arrived.back(reorder(out, inverse, order))
