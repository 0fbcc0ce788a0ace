"""The same train step in plain JAX, one file: what a person would write by hand, without metrics or options."""

import jax
import jax.numpy as jnp
from jax import lax

LAYERS, EMBED, HEADS, KV, HEAD, MLP, VOCAB = 8, 256, 8, 4, 32, 704, 4096  # the shape that is compared
B1, B2, EPS, DECAY, CLIP, THETA = 0.9, 0.95, 1e-8, 0.1, 1.0, 10_000.0
EXACT = lax.Precision.HIGHEST


def norm(x, gain):
    """RMSNorm."""
    return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * gain


def rope(x, positions):
    """Rotary embedding, half-split."""
    freq = THETA ** (-jnp.arange(0, HEAD, 2) / HEAD)
    angle = positions[..., None, None] * freq
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], axis=-1)


def block(x, p, mask, positions):
    """One layer."""
    b, s, _ = x.shape
    h = norm(x, p["attn_norm"])
    q, k, v = (jnp.einsum("bsd,dnh->bsnh", h, p[n], precision=EXACT) for n in ("q", "k", "v"))
    q, k = rope(q, positions).reshape(b, s, KV, HEADS // KV, HEAD), rope(k, positions)
    logits = jnp.einsum("bskgh,btkh->bkgst", q, k, precision=EXACT) * HEAD**-0.5
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], logits, -1e30), axis=-1)
    out = jnp.einsum("bkgst,btkh->bskgh", weights, v, precision=EXACT).reshape(b, s, HEADS, HEAD)
    x = x + jnp.einsum("bsnh,nhd->bsd", out, p["o"], precision=EXACT)
    h = norm(x, p["mlp_norm"])
    h = jax.nn.silu(jnp.dot(h, p["gate"], precision=EXACT)) * jnp.dot(h, p["up"], precision=EXACT)
    return x + jnp.dot(h, p["down"], precision=EXACT)


def loss(params, batch):
    """Mean next-token loss under the loss weights."""
    segments = batch["segment_ids"]
    s = segments.shape[1]
    mask = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((s, s), bool))
    body = jax.checkpoint(lambda x, p: (block(x, p, mask, batch["positions"]), None), prevent_cse=False)
    x, _ = lax.scan(body, params["table"][batch["tokens"]], params["blocks"])
    logits = jnp.einsum("bsd,vd->bsv", norm(x, params["final_norm"]), params["table"], precision=EXACT)
    lse = jax.nn.logsumexp(logits, axis=-1)
    nll = lse - jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
    return jnp.sum(nll * batch["loss_weights"]) / jnp.sum(batch["loss_weights"])


def step(state, batch, rate):
    """One AdamW step with clipping by the global norm; returns (state, loss)."""
    params, mu, nu, count = state
    value, grads = jax.value_and_grad(loss)(params, batch)
    size = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, CLIP / size), grads)
    count = count + 1
    mu = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, mu, grads)
    nu = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g * g, nu, grads)

    def update(path, p, m, v):
        decay = 0.0 if "norm" in path[-1].key else DECAY
        return p - rate * (m / (1 - B1**count) / (jnp.sqrt(v / (1 - B2**count)) + EPS) + decay * p)

    return (jax.tree_util.tree_map_with_path(update, params, mu, nu), mu, nu, count), value


def start(params):
    """A state and the jitted, donated step; `params` is {"table", "blocks": {name: stack}, "final_norm"}."""
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    return (params, zeros(), zeros(), jnp.float32(0)), jax.jit(step, donate_argnums=0)
