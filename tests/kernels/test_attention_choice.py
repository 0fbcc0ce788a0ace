"""Which kernel computes a call, what each refuses, and the comparison with the reference that a wrong one fails."""

import dataclasses
import importlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.kernels.attention import IMPLEMENTATIONS, PREFERENCES, Call, Logits, blocked, choose, cudnn, mosaic
from jaxpt.kernels.attention.comparison import compare, documents
from jaxpt.kernels.attention.documents import counts, offsets, starts
from jaxpt.models.attention_calls import attention_calls, describe_choice
from jaxpt.models.compute import Compute
from jaxpt.models.config import LayerSpec
from tests.models import tiny

H100 = Call(
    8, 4096, 4096, 16, 8, 128, "bfloat16", True, None, None, "gpu", "NVIDIA H100 80GB HBM3",
    (("jax", "0.11.2"), ("tokamax", "0.0.17")),
)  # fmt: skip
V5E = dataclasses.replace(H100, platform="tpu", device_kind="TPU v5 lite")
CPU = dataclasses.replace(H100, platform="cpu", device_kind="cpu")
COMPARED = Call(4, 96, 96, 4, 2, 16, "float32", True, window=40)


@pytest.fixture
def everything_installed(monkeypatch):
    monkeypatch.setattr(cudnn, "_missing", lambda: None)
    monkeypatch.setattr(mosaic, "importable", lambda: None)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (H100, "cudnn"),
        (dataclasses.replace(H100, softcap=30.0), "mosaic"),
        (dataclasses.replace(H100, versions=(("jax", "0.10.2"),)), "blocked"),
        (dataclasses.replace(H100, dtype="float32"), "blocked"),
        (dataclasses.replace(H100, device_kind="NVIDIA A100-SXM4-80GB"), "blocked"),
        (dataclasses.replace(H100, device_kind="NVIDIA A100-SXM4-80GB", segments=False), "cudnn"),
        (V5E, "splash"),
        (dataclasses.replace(V5E, head_dim=80), "xla"),
        (CPU, "blocked"),
        (dataclasses.replace(CPU, queries=128, keys=128), "xla"),
    ],
    ids=str,
)
def test_each_platform_takes_the_first_that_applies(everything_installed, call, name):
    assert choose(call).name == name


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("cudnn", {"softcap": 30.0}, "no softcap"),
        ("cudnn", {"versions": (("jax", "0.11.1"),)}, "packed documents need JAX 0.11.2 .with JAX 0.11.1 they can be"),
        ("cudnn", {"device_kind": "NVIDIA A100-SXM4-80GB"}, "packed documents need Hopper"),
        ("cudnn", {"head_dim": 100}, "head_dim 100 is not a multiple of 8"),
        ("cudnn", {"dtype": "float32"}, "not float32"),
        ("cudnn", {"platform": "cpu"}, "for NVIDIA GPUs"),
        ("mosaic", {"versions": (("jax", "0.11.2"),)}, "tokamax 0.0.17 is not installed"),
        ("mosaic", {"versions": (("tokamax", "0.0.18"),)}, "needs tokamax 0.0.17, 0.0.18 is installed"),
        ("mosaic", {"device_kind": "NVIDIA A100-SXM4-80GB"}, "needs Hopper or Blackwell"),
        ("skipping", {"versions": (("jax", "0.11.2"),)}, "tokamax 0.0.17 is not installed"),
        ("skipping", {"versions": (("jax", "0.11.1"), ("tokamax", "0.0.17"))}, "needs JAX 0.11.2, this is 0.11.1"),
        ("skipping", {"device_kind": "NVIDIA B200"}, "is for Hopper, this is NVIDIA B200"),
        ("skipping", {"head_dim": 80}, "head_dim 80 is not 64 or 128"),
        ("splash", {}, "for TPUs"),
    ],
    ids=str,
)
def test_a_refusal_says_why(everything_installed, name, changes, reason):
    assert IMPLEMENTATIONS[name].refuses(dataclasses.replace(H100, segments=True)) is None or name == "splash"
    with pytest.raises(JaxptError, match=reason):
        choose(dataclasses.replace(H100, **changes), [name])


def test_a_kernel_that_was_not_measured_on_a_card_is_taken_by_name_only(everything_installed):
    assert choose(H100, ["skipping"]).name == "skipping"
    assert all(entry.name != "skipping" for entries in PREFERENCES.values() for entry in entries)


def test_every_preference_ends_with_the_reference_and_names_kernels_that_are_there():
    for entries in PREFERENCES.values():
        assert entries[-1].name == "xla"
        assert {e.name for e in entries} <= set(IMPLEMENTATIONS)


def test_a_line_says_for_each_layer_shape_what_computes_it_and_why_not_the_others():
    model = tiny.config(layers=(LayerSpec("window", 5), LayerSpec(), LayerSpec()))
    calls = attention_calls(model, Compute(), 2, 16)
    lines = [describe_choice(call, layers) for (call, _), layers in calls.items()]
    assert lines == [
        "attention of layer 0 (6/2 heads of 8, rows of 16, float32, window 5): xla; "
        "not blocked: the next is as fast below 256 keys",
        "attention of layers 1–2 (6/2 heads of 8, rows of 16, float32): xla; "
        "not blocked: the next is as fast below 256 keys",
    ]


def test_the_private_module_of_packed_cudnn_is_there():
    module = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    assert module.MaskType.PADDING_CAUSAL
    assert callable(module.check_cudnn_version)
    wanted = {"q_seqlen", "kv_seqlen", "q_offsets", "kv_offsets", "sliding_window_length", "mask_type", "scale"}
    code = module.dot_product_attention.__code__
    assert wanted <= set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def test_tokamax_has_what_its_kernel_needs():
    pytest.importorskip("tokamax")
    mask, kernel = mosaic._modules()
    ids = jnp.asarray(documents(32, 8))
    first = mosaic.first_keys(ids, 32, 6)
    seen = mask(k_start=first[:, None, :], is_causal=True).as_array(32, 32)
    behind = np.arange(32)[:, None] - np.arange(32)[None]
    want = (behind >= 0) & (behind < 6) & (np.asarray(ids)[0][:, None] == np.asarray(ids)[0][None])
    np.testing.assert_array_equal(np.asarray(seen)[0, 0], want)
    assert callable(kernel)


def test_documents_as_starts_and_as_offsets():
    ids = jnp.asarray([[1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    assert starts(ids).tolist() == [[0, 0, 2, 2, 2, 5, 5], [0] * 7]
    assert counts(ids).tolist() == [3, 1]
    at, lengths = offsets(ids, 4)
    assert at.tolist() == [[0, 2, 5, 7, -1], [0, 7, -1, -1, -1]]
    assert lengths.tolist() == [[2, 3, 2, -1], [7, -1, -1, -1]]
    many, longer = offsets(ids, 9)  # more than there are tokens
    assert many[0].tolist() == [0, 2, 5, 7] + [-1] * 6
    assert longer[0].tolist() == [2, 3, 2] + [-1] * 6


def planted(change):
    """A kernel that is `blocked` but for a change of (logits, segment ids)."""

    def run(q, k, v, logits, segment_ids):
        return blocked.run(q, k, v, *change(logits, segment_ids))

    return SimpleNamespace(refuses=lambda call: None, run=run)


def _later(ids):
    """The second document begins a token later."""
    return jnp.where(jnp.arange(ids.shape[1]) == jnp.argmax(ids[0] == 2), 1, ids)


WRONG = {
    "a window longer by one": lambda logits, ids: (dataclasses.replace(logits, window=41), ids),
    "a boundary that is off by one": lambda logits, ids: (logits, _later(ids)),
    "documents that are not told apart": lambda logits, ids: (logits, jnp.zeros_like(ids)),
    "another scale": lambda logits, ids: (dataclasses.replace(logits, scale=logits.scale * 1.01), ids),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_kernel_passes_the_comparison(monkeypatch, dtype):
    monkeypatch.setattr(blocked, "BLOCKS", {"cpu": 32})
    call = dataclasses.replace(COMPARED, dtype=dtype)
    found = compare("blocked", call, Logits(0.25, 40))
    assert found.reason is None
    assert set(found.errors) == set(found.allowed)


@pytest.mark.parametrize("what", WRONG)
def test_a_planted_wrong_kernel_is_caught(monkeypatch, what):
    monkeypatch.setattr(blocked, "BLOCKS", {"cpu": 32})
    monkeypatch.setitem(IMPLEMENTATIONS, "planted", planted(WRONG[what]))
    dtype = "float32" if what == "another scale" else "bfloat16"
    reason = compare("planted", dataclasses.replace(COMPARED, dtype=dtype), Logits(0.25, 40)).reason
    assert reason is not None
    assert reason.startswith("it differs from 'xla': error")


def test_a_wrong_gradient_alone_is_caught(monkeypatch):
    @jax.custom_vjp
    def twice(x):
        return x

    twice.defvjp(lambda x: (x, None), lambda _, d: (d * 1.1,))
    run = lambda q, k, v, logits, ids: blocked.run(q, twice(k), v, logits, ids)  # noqa: E731
    monkeypatch.setattr(blocked, "BLOCKS", {"cpu": 32})
    monkeypatch.setitem(IMPLEMENTATIONS, "planted", SimpleNamespace(refuses=lambda call: None, run=run))
    reason = compare("planted", dataclasses.replace(COMPARED, dtype="bfloat16"), Logits(0.25, 40)).reason
    assert reason is not None
    assert "of dk" in reason
