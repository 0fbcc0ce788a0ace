"""One decoder layer, a function of its leaves: attention, then the feed-forward network, around the residual stream."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxpt.kernels.attention import attention
from jaxpt.kernels.matmul import matmul
from jaxpt.models.compute import Compute
from jaxpt.models.config import LayerSpec, ModelConfig
from jaxpt.models.experts import Network, mix, observe
from jaxpt.models.norms import rms_norm
from jaxpt.models.params import Params, leaf
from jaxpt.models.rope import rotate
from jaxpt.models.routing import Routing, route
from jaxpt.sharding.activations import constrain

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


# What `Block` multiplies by in the compute dtype; gains, biases and routers have rules of their own.
WEIGHTS = frozenset(
    {"q", "k", "v", "o"} | {f"{prefix}{n}" for prefix in ("", "shared_", "expert_") for n in ("gate", "up", "down")}
)


def weights_cast(leaves: Params, compute: Compute) -> Params:
    """Returns the leaves with the weights in the compute dtype, as `Block` casts them.

    Cast for all layers before their scan, they are rounded once per step, not again where a layer is computed again,
    and the scan sums up their gradients, which are of that dtype, at half the bytes.
    """
    return {name: leaf(leaves, name).astype(compute.jnp_dtype) if name in WEIGHTS else a for name, a in leaves.items()}


@dataclass(frozen=True)
class Context:
    """What all layers share in one forward pass.

    `rope` maps "global" and "local" to (cos, sin), each `[B, S, 1, h/2]`. `segment_ids [B, S]` or None.
    `cached` (generation only) attends over what earlier calls stored, in the place of the kernels; `segment_ids` then
    says no more than which tokens are padding. `tap` is called
    with a name and an activation: "attention_in", "ffn_in" `[B, S, D]`, "queries" `[B, S, H, h]` and "keys"
    `[B, S, K, h]` as they are multiplied, "attention_out" `[B, S, H, h]` (what o reads), "ffn_hidden" `[B, S, F]`
    (what down reads), "attention_branch" and "ffn_branch" `[B, S, D]` as they are added to the stream; of mixtures
    "router_shares" `[B, S, k]`, "shared_hidden" `[B, S, F]` and the sums of `observe`. For layers run one at a time, as
    a scan would leak its tracers.
    """

    rope: dict[str, tuple[jax.Array, jax.Array]]
    segment_ids: jax.Array | None
    cached: "CachedAttention | None" = None
    tap: Callable[[str, jax.Array], None] | None = None

    def show(self, name: str, x: jax.Array) -> None:
        """Shows `x` to the tap, if there is one."""
        if self.tap is not None:
            self.tap(name, x)


LayerCache = Any  # what is stored of one layer, in the form that `Context.cached` keeps it

# queries [B, S, H, h], new keys and values [B, S, K, h], the layer, what is stored -> [B, S, H, h], what is stored then
CachedAttention = Callable[
    [jax.Array, jax.Array, jax.Array, LayerSpec, LayerCache | None], tuple[jax.Array, LayerCache | None]
]


@dataclass(frozen=True)
class Block:
    """One layer: `leaves` are its parameters by name, as `block_specs` declares them (no `layers` axis).

    Under a mask (`jaxpt.models.masks`) `widths` says how many positions each norm counts, and `experts [E]` which
    experts may be chosen.
    """

    config: ModelConfig
    leaves: Mapping[str, jax.Array]
    widths: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    experts: jax.Array | None = None

    def __call__(
        self, x: jax.Array, layer: LayerSpec, ctx: Context, compute: Compute, cache: LayerCache | None = None
    ) -> tuple[jax.Array, tuple[LayerCache | None, Routing | None]]:
        """Returns the stream `[B, S, D]` after this layer, and (cache, routing statistics) or None for each."""
        scale = self.config.residual_scale
        out, cache = self.attend(self._norm("attn_norm", x, compute), layer, ctx, compute, cache)
        out = checkpoint_name(self._norm("attn_post_norm", out, compute), "attention")
        out = _scaled(out, scale)
        ctx.show("attention_branch", out)
        x = constrain(x + out.astype(x.dtype), "batch", "sequence", None)
        ffn_in = self._norm("mlp_norm", x, compute)
        routing = None
        if layer.ffn == "moe":
            out, routing = self.mixture(ffn_in, compute, ctx)
        else:
            out = self.feed_forward(ffn_in, compute, ctx)
        out = _scaled(checkpoint_name(self._norm("mlp_post_norm", out, compute), "ffn"), scale)
        ctx.show("ffn_branch", out)
        return constrain(x + out.astype(x.dtype), "batch", "sequence", None), (cache, routing)

    def attend(
        self, x: jax.Array, layer: LayerSpec, ctx: Context, compute: Compute, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Self-attention of `x [B, S, D]` with grouped kv heads (Ainslie et al. 2023), or `ctx.cached` in its place."""
        c = self.config
        ctx.show("attention_in", x)
        q, k, v = (self._project(name, x, compute) for name in ("q", "k", "v"))
        if c.qk_norm != "none":
            eps = c.norm_eps if c.qk_norm_eps is None else c.qk_norm_eps
            axes = (-2, -1) if c.qk_norm == "full" else (-1,)
            q, k = (self._rms(name, y, eps, axes) for name, y in (("q_norm", q), ("k_norm", k)))
        if layer.rope != "none":
            q, k = (rotate(y, *ctx.rope[layer.rope]) for y in (q, k))
        ctx.show("queries", q)
        ctx.show("keys", k)
        if ctx.cached is not None:
            out, cache = ctx.cached(q, k, v, layer, cache)
        else:
            out = attention(
                q,
                k,
                v,
                scale=c.scale,
                segment_ids=ctx.segment_ids,
                window=layer.window,
                softcap=c.attention_softcap,
                implementation=compute.attention,
                precision=compute.precision,
            )
        ctx.show("attention_out", out)
        o = self.leaves["o"].astype(compute.jnp_dtype)
        # einsum contracts in the order of the letters: h before n copies the weights, which costs where few tokens pass
        equation = "bsnh,nhd->bsd" if ctx.cached is None else "bsgh,ghd->bsd"
        y = _product(equation, out, o, compute)
        return (y + self.leaves["o_bias"].astype(y.dtype) if c.o_bias else y), cache

    def mixture(self, x: jax.Array, compute: Compute, ctx: Context) -> tuple[jax.Array, Routing]:
        """Routed experts, plus the shared ones, of `x [B, S, D]`; and the routing statistics."""
        moe = self.config.moe
        assert moe is not None
        ctx.show("ffn_in", x)
        valid = jnp.ones(x.shape[:2], bool) if ctx.segment_ids is None else ctx.segment_ids != 0
        bias = self.leaves["router_bias"] if moe.selection_bias else None
        experts, shares, routing = route(
            moe, self.leaves["router"], bias, x, valid, compute.jnp_router_dtype, self.experts
        )
        if ctx.segment_ids is not None:
            experts = jnp.where(valid[..., None], experts, moe.experts)  # to none: it must not take a real token's room
        gate, up, down = (self.leaves[f"expert_{n}"].astype(compute.jnp_dtype) for n in ("gate", "up", "down"))
        w = gate, up, down
        ctx.show("router_shares", shares)
        net = Network(ACTIVATIONS[self.config.activation], compute)
        if ctx.tap is not None:
            for name, value in observe(moe, x, experts, shares, w, net).items():
                ctx.show(name, value)
        out = mix(moe, x, experts, shares, w, net)
        if moe.shared_mlp:
            tap = lambda name, value: ctx.show("shared_hidden", value) if name == "ffn_hidden" else None  # noqa: E731
            shared = self.feed_forward(x, compute, dataclasses.replace(ctx, tap=tap), "shared_")
            if moe.shared_score:
                score = jnp.einsum(
                    "bsd,d->bs", x, self.leaves["shared_score"].astype(x.dtype), precision=compute.precision
                )
                shared = shared * jax.nn.sigmoid(score)[..., None]
            out = out + shared
        return out, routing

    def feed_forward(self, x: jax.Array, compute: Compute, ctx: Context, prefix: str = "") -> jax.Array:
        """Gated feed-forward network, `down(act(gate x) * up x)` (Shazeer 2020, eq. 6), of `x [B, S, D]`."""
        names = (f"{prefix}gate", f"{prefix}up", f"{prefix}down")
        gate, up, down = (self.leaves[n].astype(compute.jnp_dtype) for n in names)
        act = ACTIVATIONS[self.config.activation]
        ctx.show("ffn_in", x)
        hidden = act(_product("bsd,df->bsf", x, gate, compute)) * _product("bsd,df->bsf", x, up, compute)
        ctx.show("ffn_hidden", hidden)
        return _product("bsf,fd->bsd", constrain(hidden, "batch", "sequence", "mlp"), down, compute)

    def _project(self, name: str, x: jax.Array, compute: Compute) -> jax.Array:
        w = self.leaves[name].astype(compute.jnp_dtype)
        y = _product("bsd,dnh->bsnh", x, w, compute)
        if self.config.qkv_bias:
            y = y + self.leaves[f"{name}_bias"].astype(y.dtype)
        return constrain(y, "batch", "sequence", "heads" if name == "q" else "kv_heads", None)

    def _norm(self, name: str, x: jax.Array, compute: Compute) -> jax.Array:
        """The named norm in the compute dtype where this architecture has it, else x unchanged."""
        if name not in self.leaves:
            return x.astype(compute.jnp_dtype)
        return self._rms(name, x.astype(compute.jnp_dtype), self.config.norm_eps, (-1,))

    def _rms(self, name: str, x: jax.Array, eps: float, axes: tuple[int, ...]) -> jax.Array:
        c = self.config
        cast_first = c.norm_cast_order == "gain_after_cast"
        gain, width = self.leaves[name], self.widths.get(name)
        return rms_norm(x, gain, eps, offset=c.norm_gain_offset, cast_first=cast_first, axes=axes, width=width)


def _product(equation: str, x: jax.Array, w: jax.Array, compute: Compute) -> jax.Array:
    return matmul(equation, x, w, implementation=compute.matmul, precision=compute.precision)


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    return x if scale == 1.0 else x * scale
