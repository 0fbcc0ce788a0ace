"""What a GPU would be given, lowered without one: each kernel in its place, forward and backward, and no other."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from jaxpt.kernels.attention import attention, cudnn, hopper_gradients, skipping
from jaxpt.kernels.attention import call as attention_call
from jaxpt.kernels.grouped import call as grouped_call
from jaxpt.kernels.grouped import grouped_matmul
from jaxpt.kernels.machine import numbers
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.forward import forward
from jaxpt.models.init import init_params
from tests.kernels.test_attention_passes import equations, filled

FUSED = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")
PALLAS = "mosaic_gpu_v2"
PACKED = pytest.mark.skipif(numbers(jax.__version__) < cudnn.PACKED_SINCE, reason="packed cuDNN needs JAX 0.11.2")


@pytest.fixture
def h100(monkeypatch):
    """This process takes its device for an H100, as far as the choice of kernels is concerned."""
    module = cudnn._packed_module()
    monkeypatch.setattr(cudnn, "_missing", lambda: None)
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(module, "check_compute_capability", lambda capability: float(capability) <= 9.0)
    for room in (attention_call, grouped_call):
        monkeypatch.setattr(room, "platform", lambda: "gpu")
        monkeypatch.setattr(room, "device_kind", lambda: "NVIDIA H100 80GB HBM3")
        monkeypatch.setattr(room, "INSTALLED", (("jax", jax.__version__),))


def lowered(f, *shapes):
    """The program for CUDA, as text, and what it calls by name."""
    unchecked = [export.DisabledSafetyCheck.custom_call(name) for name in (*FUSED, PALLAS)]
    text = export.export(jax.jit(f), platforms=["cuda"], disabled_checks=unchecked)(*shapes).mlir_module()
    return text, set(re.findall(r"custom_call @([\w$.]+)", text))


def attended(segments, **options):
    """A loss of attention and its three gradients, of rows of 1,024 in bfloat16 with two queries to a key."""
    q, k = (jax.ShapeDtypeStruct((2, 1024, heads, 64), jnp.bfloat16) for heads in (4, 2))
    ids = [jax.ShapeDtypeStruct((2, 1024), jnp.int32)] if segments else []

    def loss(q, k, v, *ids):
        out = attention(q, k, v, scale=0.1, segment_ids=ids[0] if ids else None, **options)
        return jnp.sum(out.astype(jnp.float32))

    return lowered(jax.grad(loss, argnums=(0, 1, 2)), q, k, k, *ids)


@pytest.mark.newest
@pytest.mark.parametrize("window", [None, 256])
def test_rows_of_one_document_are_given_to_cudnn(h100, window):
    assert attended(False, window=window)[1] == set(FUSED)


@pytest.mark.newest
@PACKED
def test_packed_rows_are_given_to_cudnn_or_to_blocks_by_the_number_of_their_documents(h100):
    text, called = attended(True)
    assert called == set(FUSED)
    assert "stablehlo.case" in text  # a row of too many documents
    assert "stablehlo.while" in text


@pytest.mark.newest
@PACKED
@pytest.mark.parametrize("remat", ["none", "kernels"])
def test_branches_give_no_rows_filled_with_a_number(h100, remat):
    """The gradient of two layers; what a branch gives that it does not compute was kept for the other's gradient."""
    model = ModelConfig(
        vocab_size=64,
        embed=128,
        heads=2,
        kv_heads=1,
        head_dim=64,
        mlp=128,
        layers=uniform_layers(2),
        tie_embeddings=True,
    )
    compute = Compute(dtype="bfloat16", remat=remat, unroll=True)
    ids = jax.ShapeDtypeStruct((2, 1024), jnp.int32)
    loss = lambda params, *ids: jnp.sum(forward(model, params, *ids, compute=compute))  # noqa: E731
    params = jax.eval_shape(lambda: init_params(model, 0))
    program = jax.make_jaxpr(jax.grad(loss))(params, ids, ids, ids).jaxpr
    assert sum(e.primitive.name == "cond" for e in equations(program)) == 4
    assert filled(program, 2 * 1024) == []


@pytest.mark.newest
@pytest.mark.skipif(numbers(jax.__version__) < skipping.SINCE, reason="needs Pallas of JAX 0.11.2")
@pytest.mark.parametrize(("head_dim", "softcap"), [(64, None), (128, 20.0)])
def test_gradients_that_skip_documents_are_two_programs(head_dim, softcap):
    def run(q, k, ids, log_sum):
        return hopper_gradients.gradients(q, k, k, ids, q, log_sum, q, scale=0.1, softcap=softcap)

    q, k = (jax.ShapeDtypeStruct((2, 512, heads, head_dim), jnp.bfloat16) for heads in (4, 2))
    log_sum = jax.ShapeDtypeStruct((2, 4, 512), jnp.float32)
    text, called = lowered(run, q, k, jax.ShapeDtypeStruct((2, 512), jnp.int32), log_sum)
    assert called == {PALLAS}
    assert text.count(f"custom_call @{PALLAS}") == 2
    assert "512x512" not in text


@pytest.mark.newest
@pytest.mark.parametrize("options", [{"implementation": "blocked"}, {"softcap": 20.0}], ids=str)
def test_blocks_are_loops_of_known_length_and_no_square_of_the_length_is_formed(h100, options):
    text, called = attended(True, **options)
    assert called == set()
    assert "stablehlo.while" in text
    assert "1024x1024" not in text
    assert "1024x1024" in attended(True, implementation="xla")[0]


@pytest.mark.newest
def test_products_of_experts_are_given_to_xla_where_tokamax_is_absent(h100):
    x, w = jax.ShapeDtypeStruct((512, 64), jnp.bfloat16), jax.ShapeDtypeStruct((4, 64, 128), jnp.bfloat16)
    text, called = lowered(grouped_matmul, x, w, jax.ShapeDtypeStruct((4,), jnp.int32))
    assert called == set()
    assert "ragged_dot" in text
