"""Every attention implementation against float64 arithmetic, forward and gradient, for every feature and odd sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.kernels.attention import IMPLEMENTATIONS, attention, blocked, cudnn
from jaxpt.kernels.attention.call import Logits
from jaxpt.kernels.attention.passes import Passes
from jaxpt.sharding import make_mesh
from tests.kernels import attention_float64

BLOCK = 8


def rows(*lengths):
    """Ids 1, 2, … of documents of these lengths; what a negative length says is padding."""
    return np.concatenate([np.full(abs(n), i if n > 0 else 0) for i, n in enumerate(lengths, 1)])


PACKED = np.stack([rows(5, 9, 13, -6), rows(1, 30, 1, 1)])
CASES = {  # (S, H, K), segment ids, options
    "one document": ((24, 4, 2), None, {}),
    "S not a multiple of a block": ((33, 4, 2), PACKED, {}),
    "one document per block edge": ((32, 2, 1), np.stack([rows(8, 8, 8, 8), rows(16, 8, -8)]), {}),
    "one head": ((17, 1, 1), np.stack([rows(17), rows(9, 8)]), {}),
    "seven query heads to a kv head": ((20, 7, 1), np.stack([rows(3, 17), rows(11, -9)]), {}),
    "a row of padding": ((16, 2, 2), np.stack([rows(-16), rows(16)]), {}),
    "window": ((33, 2, 1), None, {"window": 11}),
    "window of one": ((17, 2, 1), None, {"window": 1}),
    "window longer than the row": ((17, 2, 1), None, {"window": 99}),
    "softcap": ((17, 2, 1), None, {"softcap": 2.0}),
    "all together": ((33, 7, 1), PACKED, {"window": 10, "softcap": 2.0}),
    "shorter than a block": ((5, 2, 1), np.stack([rows(2, 3), rows(5)]), {}),
}
SCATTERED = np.stack([np.resize([3, 1, 0, 2, 2], 33), np.resize([1, 2], 33)])  # ids that come back


@functools.cache
def arrays(s, h, kv, hd=8):
    rng = np.random.default_rng(s * h)
    return tuple(jnp.asarray(rng.normal(size=(2, s, n, hd)), jnp.float32) for n in (h, kv, kv, h))


def with_gradients(implementation, q, k, v, d_out, segments=None, scale=0.3, **options):
    """(out, dq, dk, dv) of an implementation."""
    seg = None if segments is None else jnp.asarray(segments, jnp.int32)

    def run(q, k, v, d_out):
        f = lambda q, k, v: attention(  # noqa: E731
            q, k, v, scale=scale, segment_ids=seg, implementation=implementation, **options
        )
        out, back = jax.vjp(f, q, k, v)
        return out, *back(d_out)

    return jax.jit(run)(q, k, v, d_out)


@pytest.fixture(params=["xla", "blocked", "blocked, all rows at once"])
def implementation(request, monkeypatch):
    """An implementation with blocks small enough for these rows; the third way is what GPUs take."""
    monkeypatch.setattr(blocked, "BLOCKS", {"cpu": BLOCK, "gpu": BLOCK})
    if "," in request.param:
        monkeypatch.setattr(blocked, "platform", lambda: "gpu")
    return request.param.partition(",")[0]


@pytest.mark.parametrize("case", CASES)
def test_attention_and_its_gradient_equal_float64(implementation, case):
    shape, segments, options = CASES[case]
    inputs = arrays(*shape)
    got = with_gradients(implementation, *inputs, segments, **options)
    want = attention_float64.attention(*inputs, 0.3, segments, **options)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_ids_that_come_back_see_each_other(implementation):
    inputs = arrays(33, 4, 2)
    got = with_gradients(implementation, *inputs, SCATTERED, window=20)
    want = attention_float64.attention(*inputs, 0.3, SCATTERED, window=20)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    other = attention_float64.attention(*inputs, 0.3, np.sort(SCATTERED), window=20)
    assert not np.allclose(got[0], other[0], atol=1e-2)


@pytest.mark.parametrize("wrong", [{"window": 10}, {"window": 12}, {"softcap": 2.1}, {}], ids=str)
def test_the_comparison_notices_another_mask(wrong):
    inputs = arrays(33, 2, 1)
    right = {"window": 11} if "window" in wrong or not wrong else {"softcap": 2.0}
    got = with_gradients("xla", *inputs, **wrong)
    want = attention_float64.attention(*inputs, 0.3, None, **right)
    assert not np.allclose(got[0], want[0], rtol=2e-5, atol=2e-5)
    assert not np.allclose(got[2], want[2], rtol=2e-5, atol=2e-5)


def test_blocks_before_a_document_are_not_computed(monkeypatch):
    """NaN in keys and values of another document's blocks: what is computed and weighted with 0 would become NaN."""
    monkeypatch.setattr(blocked, "BLOCKS", {"cpu": BLOCK})
    q, k, v, d_out = arrays(32, 2, 1)
    segments = np.stack([rows(16, 16)] * 2)
    k, v = k.at[:, :16].set(jnp.nan), v.at[:, :16].set(jnp.nan)
    d_out = d_out.at[:, :16].set(0)
    got = with_gradients("blocked", q, k, v, d_out, segments)
    assert all(np.isfinite(x[:, 16:]).all() for x in got)
    assert not np.isfinite(with_gradients("xla", q, k, v, d_out, segments)[0][:, 16:]).any()


def temporary(implementation, s):
    """MiB that XLA takes besides arguments and results for forward and backward pass over one row of s tokens."""
    heads = jax.ShapeDtypeStruct((1, s, 2, 16), jnp.float32)
    seg = jax.ShapeDtypeStruct((1, s), jnp.int32)

    def loss(q, k, v, seg):
        return attention(q, k, v, scale=0.2, segment_ids=seg, implementation=implementation).sum()

    memory = jax.jit(jax.grad(loss, (0, 1, 2))).lower(heads, heads, heads, seg).compile().memory_analysis()
    return memory.temp_size_in_bytes / 2**20


def test_memory_of_the_blocked_attention_is_linear_in_the_rows_length():
    short, long = temporary("blocked", 1024), temporary("blocked", 4096)
    assert long < 4.2 * short
    assert temporary("xla", 4096) > 10 * long
    assert temporary("xla", 4096) > 9 * temporary("xla", 1024)


@pytest.mark.parametrize(("kv", "platform"), [(2, "cpu"), (1, "cpu"), (2, "gpu")])
def test_on_a_mesh_each_device_computes_its_rows_and_heads(monkeypatch, kv, platform):
    monkeypatch.setattr(blocked, "BLOCKS", {"cpu": BLOCK, "gpu": BLOCK})
    monkeypatch.setattr(blocked, "platform", lambda: platform)
    inputs = arrays(33, 4, kv)
    want = with_gradients("blocked", *inputs, PACKED, window=20)
    with jax.set_mesh(make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])):
        got = with_gradients("blocked", *inputs, PACKED, window=20)
    assert math.prod(got[0].sharding.shard_shape(got[0].shape)) == got[0].size // 4
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("documents", [4, 40])
def test_packed_cudnn_takes_another_kernel_where_a_row_has_more_documents(monkeypatch, documents):
    """The whole way that a GPU takes, but for cuDNN itself, in whose place stands what would show."""
    monkeypatch.setattr(blocked, "BLOCKS", {"gpu": BLOCK})
    monkeypatch.setattr(blocked, "platform", lambda: "gpu")
    sevens = lambda q, k, v, segment_ids, *, logits: (q * 0 + 7, q[..., 0].swapaxes(1, 2))  # noqa: E731
    monkeypatch.setattr(cudnn, "PACKED", Passes(sevens, blocked.backward))
    monkeypatch.setattr(cudnn, "refuses", lambda call: None)
    inputs = arrays(41, 4, 2)
    segments = np.stack([rows(*[1] * (documents - 1), 41 - documents + 1), rows(41)])
    with jax.set_mesh(make_mesh({"data": 1}, jax.devices()[:1])):
        got = with_gradients("cudnn", *inputs, segments, window=20)
    if documents <= cudnn.DOCUMENTS:
        assert np.all(got[0] == 7)
        return
    for a, b in zip(got, attention_float64.attention(*inputs, 0.3, segments, window=20), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_splash_where_it_does_not_apply_is_refused_by_name():
    q, k, v, _ = arrays(100, 4, 2, 64)
    with pytest.raises(JaxptError, match="sequence length 100 is not a multiple of 128"):
        attention(q, k, v, scale=1.0, implementation="splash")


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_every_kernel_has_the_same_signature(name):
    kernel = IMPLEMENTATIONS[name]
    names = kernel.run.__code__.co_varnames[: kernel.run.__code__.co_argcount]
    assert names == ("q", "k", "v", "logits", "segment_ids")
    assert Logits(1.0).window is None
