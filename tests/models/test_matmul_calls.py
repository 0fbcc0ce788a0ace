"""The products that a plan lists are those of the forward pass, and no others are in 8 bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.kernels.matmul import dispatch
from jaxpt.models import Compute, forward
from jaxpt.models.compute import REMAT_POLICIES
from jaxpt.models.matmul_calls import describe_matmul_choice, matmul_calls
from jaxpt.sharding import make_mesh
from tests.models.tiny import VARIANTS, config, random_params

EMULATED = Compute(matmul="fp8_emulated")
WIDE = config(embed=32, mlp=48, heads=4, kv_heads=2, head_dim=16)  # multiples of 16
TOKENS = jax.ShapeDtypeStruct((4, 12), jnp.int32)


@pytest.mark.parametrize("name", ["llama", "qwen3", "moe", "moe_mixed", "o_bias"])
@pytest.mark.parametrize("mesh", [{"fsdp": 1}, {"fsdp": 2, "tensor": 2}], ids=str)
def test_they_are_the_calls_of_the_forward_pass(monkeypatch, name, mesh):
    made, model = set(), VARIANTS[name]

    def noted(call, names=()):
        made.add(call)
        return choose(call, names)

    choose = dispatch.choose
    monkeypatch.setattr(dispatch, "choose", noted)
    with jax.set_mesh(make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))])):
        params = jax.eval_shape(lambda: random_params(model))
        jax.eval_shape(lambda p, t: forward(model, p, t, compute=EMULATED), params, TOKENS)
        listed = matmul_calls(model, EMULATED, 4, 12)
    assert {dataclasses.replace(call, names=()) for (call,) in listed} == made
    assert {layer for layers in listed.values() for layer in layers} == set(range(len(model.layers)))
    assert matmul_calls(model, Compute(), 4, 12) == {}


def test_a_line_says_what_multiplies_them_and_why():
    calls = matmul_calls(WIDE, Compute("bfloat16", matmul="fp8,plain"), 4, 12)
    (call,), layers = next((key, value) for key, value in calls.items() if "gate" in key[0].names)
    said = describe_matmul_choice(call, layers, ("fp8", "plain"))
    assert said.startswith("gate, up of layers 0–2 (32 × 48, 48 rows, bfloat16): plain; not fp8: it needs a GPU or TPU")
    on_gpu = dataclasses.replace(call, platform="gpu", device_kind="NVIDIA H200")
    assert describe_matmul_choice(on_gpu, layers, ("fp8",)).endswith("bfloat16): fp8")


def products(model, remat="none", unroll=False):
    """How many products of value and gradient are in 8 bits, and how many are not."""
    compute = Compute("bfloat16", remat=remat, attention="xla", unroll=unroll, matmul="fp8")
    params = jax.eval_shape(lambda: random_params(model))

    def loss(params, tokens):
        return jnp.sum(forward(model, params, tokens, compute=compute))

    text = jax.jit(jax.value_and_grad(loss)).lower(params, TOKENS).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line or "ragged_dot" in line]
    return sum("f8E" in line for line in lines), sum("f8E" not in line for line in lines)


@pytest.fixture
def everywhere(monkeypatch):
    """`fp8` where there are no units for it."""
    monkeypatch.setattr(dispatch.fp8, "refuses", lambda call: None)


@pytest.mark.parametrize("unroll", [False, True])
def test_every_matrix_of_a_layer_is_multiplied_in_8_bits_and_nothing_else_is(everywhere, unroll):
    layers = len(WIDE.layers) if unroll else 1  # a scan has one body
    eight, other = products(WIDE, unroll=unroll)
    assert eight == 7 * 3 * layers  # q, k, v, o, gate, up, down, each with two gradients
    assert other == 2 * 3 * layers + 3  # attention, and the head


@pytest.mark.parametrize(("remat", "again"), [("full", 6), ("kernels", 0), ("dots", 0)])
def test_a_policy_saves_products_in_8_bits_as_it_saves_others(everywhere, remat, again):
    assert products(WIDE, remat)[0] == 21 + again  # of "full" all but the last of a layer


def test_experts_and_router_are_not(everywhere):
    model = VARIANTS["moe"]
    assert products(model)[0] == 4 * 3


@pytest.mark.parametrize("remat", sorted(set(REMAT_POLICIES) - {"offload_branches"}))
def test_recomputation_changes_no_gradient(remat):
    tokens = jnp.arange(24).reshape(2, 12) % 61

    def gradient(remat):
        compute = dataclasses.replace(EMULATED, remat=remat)
        return jax.jit(jax.grad(lambda p: jnp.sum(forward(WIDE, p, tokens, compute=compute) ** 2)))(random_params(WIDE))

    for a, b in zip(jax.tree.leaves(gradient(remat)), jax.tree.leaves(gradient("none"))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))
