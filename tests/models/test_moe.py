"""Mixture-of-experts layers: the definition, dropless and with capacity, on one device and on eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.generation import InferenceEngine
from jaxpt.generation.passes import PADDING, TokenRows, run
from jaxpt.kernels.exchange import ragged
from jaxpt.models import Compute, LayerSpec, ModelConfig, MoeConfig, flatten, forward, hidden_and_routing, param_specs
from jaxpt.models.experts import Network, mix
from jaxpt.models.routing import route
from jaxpt.models.size import active_param_count, param_count
from jaxpt.sharding import make_mesh, param_shardings
from tests.kernels.ragged_on_cpu import ragged_by_gathering
from tests.models.tiny import VARIANTS, config, random_params

TOKENS = jax.random.randint(jax.random.key(7), (8, 12), 0, 61)
MOE = VARIANTS["moe"]


def silu_ffn(x, gate, up, down):
    return (jax.nn.silu(x @ gate) * (x @ up)) @ down


def layer(moe, seed=0, d=8, bias=None):
    keys = jax.random.split(jax.random.key(seed), 5)
    shapes = [
        (2, 9, d),
        (d, moe.experts),
        (moe.experts, d, moe.mlp),
        (moe.experts, d, moe.mlp),
        (moe.experts, moe.mlp, d),
    ]
    x, router, *w = (jax.random.normal(k, s) for k, s in zip(keys, shapes))
    experts, shares, stats = route(moe, router, bias, x, jnp.ones((2, 9), bool), jnp.float32)
    return x, router, tuple(w), experts, shares, stats


@pytest.mark.parametrize("weights", ["softmax", "renormalised"])
def test_the_layer_is_the_weighted_sum_of_its_chosen_experts(weights):
    moe = MoeConfig(5, 2, 6, weights=weights, route_scale=1.7)
    x, router, w, experts, shares, _ = layer(moe)
    got = mix(moe, x, experts, shares, w, Network(jax.nn.silu, Compute()))
    probs = jax.nn.softmax(jnp.einsum("bsd,de->bse", x, router, precision="highest"))
    want = np.zeros(x.shape)
    for b, s in np.ndindex(2, 9):
        p = np.asarray(probs[b, s])
        best = np.argsort(-p, kind="stable")[:2]
        scale = 1.7 / (p[best].sum() if weights == "renormalised" else 1.0)
        want[b, s] = sum(p[e] * scale * silu_ffn(x[b, s], *(m[e] for m in w)) for e in best)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_equal_scores_choose_the_lower_index():
    x = jnp.ones((1, 1, 4))
    experts, shares, _ = route(MoeConfig(6, 3, 4), jnp.zeros((4, 6)), None, x, jnp.ones((1, 1), bool), jnp.float32)
    assert experts.tolist() == [[[0, 1, 2]]]
    np.testing.assert_allclose(shares, 1 / 3, rtol=1e-6)


def test_the_selection_bias_changes_the_choice_and_not_the_weight():
    moe = MoeConfig(4, 1, 4, weights="softmax", selection_bias=True)
    x, router, _, before, _, _ = layer(moe, bias=jnp.zeros(4))
    bias = jnp.array([0.0, 0.0, 5.0, 0.0])
    experts, shares, _ = route(moe, router, bias, x, jnp.ones((2, 9), bool), jnp.float32)
    assert np.all(experts == 2)
    assert not np.all(before == 2)
    probs = jax.nn.softmax(jnp.einsum("bsd,de->bse", x, router, precision="highest"))
    np.testing.assert_allclose(shares[..., 0], probs[..., 2], rtol=1e-5)


def test_the_selection_bias_has_no_gradient_and_the_router_has():
    c = VARIANTS["moe_mixed"]
    grads = jax.grad(lambda p: jnp.sum(forward(c, p, TOKENS[:2]) ** 2))(random_params(c))["blocks"]["moe"]
    assert np.all(grads["router_bias"] == 0)
    for name in ("router", "expert_gate", "shared_down", "shared_score"):
        assert float(jnp.abs(grads[name]).max()) > 0, name


def test_ample_capacity_is_dropless_and_scarce_capacity_drops():
    moe = MoeConfig(5, 2, 6)
    x, _, w, experts, shares, _ = layer(moe)
    net = Network(jax.nn.silu, Compute())
    whole = mix(moe, x, experts, shares, w, net)
    ample = mix(dataclasses.replace(moe, capacity_factor=5.0), x, experts, shares, w, net)
    np.testing.assert_allclose(ample, whole, rtol=1e-5, atol=1e-5)
    scarce = mix(dataclasses.replace(moe, capacity_factor=0.5), x, experts, shares, w, net)
    assert not np.allclose(scarce, whole, atol=1e-2)


@pytest.mark.parametrize(
    "mesh", [{"expert": 2, "fsdp": 4}, {"expert": 2, "tensor": 2, "data": 2}, {"fsdp": 8}, {"expert": 6}]
)
def test_eight_devices_compute_the_logits_and_gradients_of_one(mesh):
    params = random_params(MOE)

    def loss(p):
        x, routing = hidden_and_routing(MOE, p, TOKENS)
        return jnp.sum(x**2), routing

    want = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    m = make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))])
    placed = jax.device_put(
        params, param_shardings(param_specs(MOE), m, allow_replicated=tuple(flatten(param_specs(MOE))))
    )
    with jax.set_mesh(m):
        got = jax.jit(jax.value_and_grad(loss, has_aux=True))(placed)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want)):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * scale, err_msg=str(path))


def test_experts_split_over_devices_with_ample_capacity_compute_the_dropless_layer():
    moe = MoeConfig(6, 2, 16)
    x, _, w, experts, shares, _ = layer(moe, d=24)
    net = Network(jax.nn.silu, Compute())
    want = mix(moe, x, experts, shares, w, net)
    with jax.set_mesh(make_mesh({"expert": 2}, jax.devices()[:2])):
        for factor, same in ((6.0, True), (0.3, False)):
            some = dataclasses.replace(moe, capacity_factor=factor)
            got = jax.jit(lambda *a, m=some: mix(m, *a, net))(x, experts, shares, w)
            assert np.allclose(got, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max())) == same


@pytest.mark.parametrize("forgotten", [False, True])
def test_the_ragged_exchange_is_the_layer_of_one_device(monkeypatch, forgotten):
    moe = MoeConfig(6, 2, 16)
    x, _, w, experts, shares, _ = layer(moe, d=24)
    net = Network(jax.nn.silu, Compute(expert_exchange="ragged"))
    value = lambda x, w: jnp.sum(jnp.sin(mix(moe, x, experts, shares, w, net)))  # noqa: E731
    want = jax.grad(value, argnums=(0, 1))(x, w)
    send = ragged_by_gathering
    if forgotten:  # the proof can fail: every sender's rows at the receiver's first place
        send = lambda a, b, c, d, e, f, **k: ragged_by_gathering(a, b, c, d, 0 * e, f, **k)  # noqa: E731
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", send)
    monkeypatch.setattr(ragged, "refuses", lambda call: None)
    with jax.set_mesh(make_mesh({"expert": 2}, jax.devices()[:2])):
        got = jax.jit(jax.grad(value, argnums=(0, 1)))(x, w)
    same = [np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want))]
    assert all(same) != forgotten


def test_statistics_count_every_choice_of_tokens_that_are_not_padding():
    segments = jnp.where(jnp.arange(12) < 9, 1, 0) * jnp.ones((8, 1), jnp.int32)
    _, routing = hidden_and_routing(MOE, random_params(MOE), TOKENS, segments)
    assert routing["counts"].shape == (3, 6)
    np.testing.assert_array_equal(routing["counts"].sum(1), 8 * 9 * 2)
    np.testing.assert_allclose(routing["probs"].sum(1), 8 * 9, rtol=1e-5)


def test_parameters_and_active_parameters_are_the_closed_form():
    d, e, f = 24, 6, 16
    attention = d * 8 * (2 * 6 + 2 * 2) + 2 * d + 2 * 8
    outer = 2 * 61 * d + d
    assert param_count(MOE) == 3 * (attention + d * e + 3 * e * d * f) + outer
    assert active_param_count(MOE) == 3 * (attention + d * e + 3 * 2 * d * f) + outer


def test_config_survives_json_and_contradictions_are_named():
    c = VARIANTS["moe_mixed"]
    assert ModelConfig.from_dict(c.to_dict()) == c
    with pytest.raises(JaxptError, match="experts_per_token is 9, there are only 4"):
        MoeConfig(4, 9, 8)
    with pytest.raises(JaxptError, match=r"layers\[0\].ffn is 'moe' but model.moe is not set"):
        config(layers=(LayerSpec(ffn="moe"),))


PADDED = [
    (None, {}),
    (1.0, {}),
    (None, {"expert": 2}),
    (1.0, {"fsdp": 2, "expert": 2}),
]


def half_padded():
    """Rows whose second half is padding, so that it would fill an expert by itself."""
    segments = jnp.broadcast_to(jnp.where(jnp.arange(12) < 7, 1, 0), (8, 12))
    real = segments != 0
    return segments, real, [jnp.where(real, TOKENS, other) for other in (0, 5, (TOKENS * 7 + 3) % 61)]


def on_mesh(config, mesh, value, params, *args):
    """`value(config, params, *args)` under `jit`, sharded over `mesh` ({}: one device)."""
    if not mesh:
        return jax.jit(lambda *a: value(config, *a))(params, *args)
    m = make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))])
    specs = param_specs(config)
    placed = jax.device_put(params, param_shardings(specs, m, allow_replicated=tuple(flatten(specs))))
    with jax.set_mesh(m):
        return jax.jit(lambda *a: value(config, *a))(placed, *args)


def streams(config, params, tokens, segments):
    """Streams of real tokens, their routing, and the gradient of a function of them."""

    def loss(params):
        x, routing = hidden_and_routing(config, params, tokens, segments)
        return jnp.sum(jnp.sin(x) * (segments != 0)[..., None]), (x, routing)

    grads, (x, routing) = jax.grad(loss, has_aux=True)(params)
    return jnp.where((segments != 0)[..., None], x, 0), routing, grads


@pytest.mark.parametrize(("factor", "mesh"), PADDED)
def test_ids_at_padding_change_no_real_token_no_statistic_and_no_gradient(factor, mesh):
    config = dataclasses.replace(MOE, moe=dataclasses.replace(MOE.moe, capacity_factor=factor))
    segments, _, variants = half_padded()
    first, *others = (on_mesh(config, mesh, streams, random_params(config), t, segments) for t in variants)
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other, first)


def test_tokens_in_the_place_of_padding_would_change_them():  # the proof above can fail
    config = dataclasses.replace(MOE, moe=dataclasses.replace(MOE.moe, capacity_factor=1.0))
    _, real, variants = half_padded()
    apart = jnp.where(real, 1, 2)  # documents of their own, which attention keeps apart
    a, b = (on_mesh(config, {}, streams, random_params(config), t, apart)[0] for t in variants[:2])
    assert not np.allclose(jnp.where(real[..., None], a, 0), jnp.where(real[..., None], b, 0), atol=1e-3)


@pytest.mark.parametrize(("factor", "mesh"), [(None, {}), (1.0, {}), (None, {"expert": 2}), (1.0, {"expert": 2})])
def test_padding_takes_no_room_and_gives_zero(factor, mesh):
    moe = MoeConfig(6, 2, 16, capacity_factor=factor)
    x, _, w, experts, shares, _ = layer(moe, d=24)
    real = (jnp.arange(9) >= 6)[None, :, None]  # two thirds are padding: one third of the room is enough for the rest
    net = Network(jax.nn.silu, Compute())
    want = jnp.where(real, mix(dataclasses.replace(moe, capacity_factor=None), x, experts, shares, w, net), 0)
    crowded = jnp.where(real, experts, jnp.array([0, 1]))
    with jax.set_mesh(make_mesh(mesh or {"data": 1}, jax.devices()[: 2 if mesh else 1])):
        run = jax.jit(lambda e: mix(moe, x, e, shares, w, net))
        got = run(jnp.where(real, experts, moe.experts))
        full = run(crowded)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))
    assert np.all(np.asarray(got)[:, :6] == 0)
    if factor is not None:  # as it was: padding in the experts' rooms
        assert not np.allclose(jnp.where(real, full, 0), want, atol=1e-2)


def test_a_prompt_with_padding_beside_it_is_read_as_without_under_scarce_capacity():
    config = dataclasses.replace(MOE, moe=dataclasses.replace(MOE.moe, capacity_factor=1.0))
    params, tokens = random_params(config), TOKENS[:2]

    def read(other, branches):
        rows = TokenRows(jnp.where(real, tokens, other), at, branches)
        return np.asarray(run(config, InferenceEngine(config, params).weights, Compute(), rows)[0])[np.asarray(real)]

    at = jnp.broadcast_to(jnp.arange(12), (2, 12))
    real = at < jnp.array([[4], [12]])  # the padding stands before the other prompt's tokens
    np.testing.assert_array_equal(*(read(other, jnp.where(real, 0, PADDING)) for other in (0, 9)))
    as_text = [read(other, jnp.zeros_like(at)) for other in (0, 9)]  # the proof can fail
    assert not np.allclose(*as_text, atol=1e-3)
