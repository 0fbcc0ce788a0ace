"""The next-token objective against a float64 reference that shares no code with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models import Compute, LayerSpec, MoeConfig, init_params
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import Inputs
from tests.training import tiny

MODEL = tiny.MODEL.replace(
    layers=(LayerSpec(rope="none"), LayerSpec(rope="none", ffn="moe"), LayerSpec(rope="none", ffn="moe")),
    moe=MoeConfig(4, 2, 8, weights="softmax"),
)
OBJECTIVE = NextToken(z_loss=0.03, chunk=4, balance=0.3, sequence_balance=0.2, router_z=0.1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + MODEL.norm_eps) * gain


def silu(x):
    return x / (1 + np.exp(-x))


def attend(p, x, same):
    """Causal attention within a segment; query head n reads kv head n // 2."""
    q, k, v = (np.einsum("bsd,dnh->bsnh", x, p[n]) for n in "qkv")
    k, v = (np.repeat(a, MODEL.heads // MODEL.kv_heads, axis=2) for a in (k, v))
    scores = np.einsum("bqnh,bknh->bnqk", q, k) / np.sqrt(MODEL.head_dim)
    scores = np.where(same[:, None], scores, -np.inf)
    return np.einsum("bqnh,nhd->bqd", np.einsum("bnqk,bknh->bqnh", softmax(scores), v), p["o"])


def experts(p, x, balance):
    """Each token's two best experts by their probabilities; adds to `balance` what the routers' losses are made of."""
    logits = x @ p["router"]
    probs = softmax(logits)
    chosen = np.argsort(-probs, axis=-1, kind="stable")[..., :2]
    out = np.zeros_like(x)
    for b, s in np.ndindex(x.shape[:2]):
        for e in chosen[b, s]:
            hidden = silu(x[b, s] @ p["expert_gate"][e]) * (x[b, s] @ p["expert_up"][e])
            out[b, s] += probs[b, s, e] * (hidden @ p["expert_down"][e])
    counts = np.stack([(chosen == e).sum(-1) for e in range(4)], axis=-1)  # [B, S, E]
    share, mean = counts.mean((0, 1)) / 2, probs.mean((0, 1))
    balance["balance"] += [4 * (share * mean).sum()]
    balance["sequence"] += [(4 * (counts.mean(1) / 2 * probs.mean(1)).sum(-1)).mean()]
    balance["z"] += [(np.log(np.exp(logits).sum(-1)) ** 2).mean()]
    return out


def reference(params, batch):
    """Returns (loss, nll, z, balance loss)."""
    stacks = {"dense": iter(range(9)), "moe": iter(range(9))}
    x, balance = params["embed"]["table"][batch["tokens"]], {"balance": [], "sequence": [], "z": []}
    segments = batch["segment_ids"]
    same = (segments[:, :, None] == segments[:, None, :]) & np.tri(tiny.S, dtype=bool)
    for layer in MODEL.layers:
        at = next(stacks[layer.ffn])
        p = {name: leaf[at] for name, leaf in params["blocks"][layer.ffn].items()}
        x = x + attend(p, norm(x, p["attn_norm"]), same)
        y = norm(x, p["mlp_norm"])
        x = x + (experts(p, y, balance) if layer.ffn == "moe" else (silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"])
    logits = norm(x, params["final_norm"]) @ params["embed"]["table"].T
    lse = np.log(np.exp(logits).sum(-1))
    nll = lse - np.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
    weights = batch["loss_weights"] / batch["loss_weights"].sum()
    parts = 0.3 * np.mean(balance["balance"]), 0.2 * np.mean(balance["sequence"]), 0.1 * np.mean(balance["z"])
    z = 0.03 * (weights * lse**2).sum()
    return (weights * nll).sum() + z + sum(parts), (weights * nll).sum(), z, sum(parts)


@pytest.fixture(scope="module")
def computed():
    """(terms, float64 parameters, batch)."""
    params = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, init_params(MODEL, 0))  # so that routers differ
    batch = {k: jnp.asarray(v) for k, v in tiny.batch(0).items()}
    total = jnp.sum(batch["loss_weights"])
    terms = jax.jit(lambda p: OBJECTIVE.terms(Inputs(MODEL, p, batch, total, Compute(), sources=3)))(params)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    return jax.device_get(terms), wide, tiny.batch(0)


def test_loss_and_its_parts_are_those_of_a_float64_reference(computed):
    terms, params, batch = computed
    loss, nll, z, balance = reference(params, batch)
    np.testing.assert_allclose(terms.named["loss"], nll, rtol=1e-5)
    np.testing.assert_allclose(terms.named["z_loss"], z, rtol=1e-5)
    np.testing.assert_allclose(terms.named["balance_loss"], balance, rtol=1e-5)
    np.testing.assert_allclose(terms.loss, loss, rtol=1e-5)


def test_the_reference_sees_a_changed_router(computed):  # the proof above can fail
    terms, params, batch = computed
    router = params["blocks"]["moe"]["router"]
    params["blocks"]["moe"]["router"] = router[..., ::-1] * 1.1
    assert abs(reference(params, batch)[3] - terms.named["balance_loss"]) > 1e-3
    params["blocks"]["moe"]["router"] = router
