"""A choice between two kernels that is made on the device: exact whichever is taken, and nothing kept for the other."""

import dataclasses
import functools
import importlib
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.kernels.attention import blocked, cudnn, mosaic
from jaxpt.kernels.attention import passes as attention_passes
from jaxpt.kernels.attention.call import Logits
from jaxpt.kernels.attention.documents import LARGEST, counts, of_documents, of_rows
from jaxpt.kernels.attention.passes import Passes, attend, either
from jaxpt.models.compute import REMAT_POLICIES
from tests.kernels import attention_float64
from tests.kernels.test_attention import arrays, rows
from tests.kernels.test_attention_choice import H100

LOGITS = Logits(0.3, 20)
FEW, MANY = np.stack([rows(5, 9, 27), rows(41)]), np.stack([rows(5, 9, 7, 10, 10), rows(20, -21)])
GARBAGE = 7.0  # what cuDNN leaves where it writes nothing


def few(segment_ids):
    return counts(segment_ids).max() <= 3


def seen_and_logits(q, k, segment_ids, logits):
    group = q.shape[2] // k.shape[2]
    x = jnp.einsum("bshd,bthd->bhst", q, jnp.repeat(k, group, axis=2)) * logits.scale
    index = jnp.arange(q.shape[1])
    behind = index[:, None] - index[None]
    seen = (behind >= 0) & (behind < (logits.window or q.shape[1]))
    return (seen & (segment_ids[:, :, None] == segment_ids[:, None]))[:, None], x


def dense_forward(q, k, v, segment_ids, *, logits):
    """A kernel without blocks."""
    seen, x = seen_and_logits(q, k, segment_ids, logits)
    x = jnp.where(seen, x, -jnp.inf)
    log_sum = jax.nn.logsumexp(x, axis=-1)
    many_v = jnp.repeat(v, q.shape[2] // v.shape[2], axis=2)
    return jnp.einsum("bhst,bthd->bshd", jnp.exp(x - log_sum[..., None]), many_v), log_sum


def dense_backward(q, k, v, segment_ids, out, log_sum, d_out, *, logits):
    seen, x = seen_and_logits(q, k, segment_ids, logits)
    weights = jnp.where(seen, jnp.exp(x - log_sum[..., None]), 0)
    group = q.shape[2] // k.shape[2]
    many_k, many_v = (jnp.repeat(y, group, axis=2) for y in (k, v))
    share = jnp.einsum("bshd,bshd->bhs", out, d_out)
    d_x = weights * (jnp.einsum("bshd,bthd->bhst", d_out, many_v) - share[..., None]) * logits.scale
    of_groups = lambda y: y.reshape(*k.shape[:3], group, -1).sum(3)  # noqa: E731
    dk, dv = jnp.einsum("bhst,bshd->bthd", d_x, q), jnp.einsum("bhst,bshd->bthd", weights, d_out)
    return jnp.einsum("bhst,bthd->bshd", d_x, many_k), of_groups(dk), of_groups(dv)


DENSE = Passes(dense_forward, dense_backward)


def wrong_log_sum(q, k, v, segment_ids, *, logits):
    out, log_sum = dense_forward(q, k, v, segment_ids, logits=logits)
    return out, log_sum + math.log(2)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocked, "BLOCKS", {"cpu": 8, "gpu": 8})


def with_gradients(passes, q, k, v, d_out, segment_ids, logits=LOGITS):
    def run(q, k, v, d_out, ids):
        out, back = jax.vjp(lambda q, k, v: attend(q, k, v, ids, logits, passes), q, k, v)
        return out, *back(d_out)

    return jax.jit(run)(q, k, v, d_out, jnp.asarray(segment_ids, jnp.int32))


def check(got, want, **tolerance):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 2e-5, "atol": 2e-5, **tolerance})


@pytest.mark.parametrize("segments", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("order", [(blocked.PASSES, DENSE), (DENSE, blocked.PASSES)], ids=["blocked", "dense"])
def test_whichever_is_taken_output_and_gradients_equal_float64(order, segments):
    inputs = arrays(41, 4, 2)
    got = with_gradients(either(few, *order), *inputs, segments)
    check(got, attention_float64.attention(*inputs, 0.3, segments, window=20))


def test_one_kernel_s_gradient_follows_another_s_output():
    inputs = arrays(41, 7, 1)
    want = attention_float64.attention(*inputs, 0.3, FEW, window=20)
    check(with_gradients(Passes(blocked.forward, dense_backward), *inputs, FEW), want)
    check(with_gradients(Passes(dense_forward, blocked.backward), *inputs, FEW), want)


@pytest.mark.parametrize("backward", [blocked.backward, dense_backward])
def test_another_log_sum_is_another_gradient(backward):  # the proofs above can fail
    inputs = arrays(41, 4, 2)
    got = with_gradients(Passes(wrong_log_sum, backward), *inputs, FEW)
    want = attention_float64.attention(*inputs, 0.3, FEW, window=20)
    check(got[:1], want[:1])
    assert all(not np.allclose(a, b, atol=1e-2) for a, b in zip(got[1:], want[1:]))


def test_each_branch_is_the_one_that_its_rows_ask_for():
    zero = lambda q, k, v, segment_ids, *, logits: (q * 0, q[..., 0].swapaxes(1, 2) * 0)  # noqa: E731
    inputs = arrays(41, 4, 2)
    chosen = either(few, Passes(zero, dense_backward), blocked.PASSES)
    assert not np.any(with_gradients(chosen, *inputs, FEW)[0])
    assert np.any(with_gradients(chosen, *inputs, MANY)[0])


def equations(jaxpr):
    """Every equation of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def filled(jaxpr, size):
    """Outputs of branches, of `size` elements or more, that are one number everywhere."""
    found = []
    for equation in equations(jaxpr):
        for branch in equation.params["branches"] if equation.primitive.name == "cond" else ():
            made = {out: e for e in branch.jaxpr.eqns for out in e.outvars}
            outs = [made[out] for out in branch.jaxpr.outvars if out in made]
            full = (e for e in outs if e.primitive.name == "broadcast_in_dim" and not e.invars[0].aval.shape)
            found += [e.outvars[0].aval for e in full if math.prod(e.outvars[0].aval.shape) >= size]
    return found


def layer(attention, q, k, v, ids):
    """Something before and something after attention, as in a block."""
    return jnp.sin(attention(jnp.sin(q), jnp.cos(k), v, ids))


def differentiated_cond(q, k, v, ids):
    """A choice that JAX differentiates, of kernels that keep different things for their gradients."""
    one = functools.partial(attend, logits=LOGITS, passes=blocked.PASSES)
    return jax.lax.cond(few(ids), one, lambda *x: dense_forward(*x, logits=LOGITS)[0], q, k, v, ids)


def gradient(attention, remat):
    """The program of a gradient through a layer under a policy of recomputation, None for none."""
    q, k, v, _ = arrays(41, 4, 2)
    of_layer = functools.partial(layer, attention)
    if remat is not None:
        of_layer = jax.checkpoint(of_layer, policy=REMAT_POLICIES[remat])
    loss = lambda q, k, v: jnp.sum(of_layer(q, k, v, jnp.asarray(FEW, jnp.int32)))  # noqa: E731
    return jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v).jaxpr


CHOICE = functools.partial(attend, logits=LOGITS, passes=either(few, blocked.PASSES, DENSE))


@pytest.mark.parametrize("remat", [None, "full", "kernels"])
def test_nothing_is_filled_in_for_the_kernel_that_is_not_taken(remat):
    assert filled(gradient(CHOICE, remat), 41) == []
    assert len(filled(gradient(differentiated_cond, remat), 41)) > 4


@pytest.mark.parametrize(("remat", "conds"), [(None, 2), ("kernels", 2), ("full", 3)])
def test_a_policy_that_saves_kernels_runs_the_choice_once_forward_and_once_backward(remat, conds):
    assert sum(e.primitive.name == "cond" for e in equations(gradient(CHOICE, remat))) == conds


def test_output_and_log_sum_are_all_that_the_policy_saves(capsys):
    q, k, v, _ = arrays(41, 4, 2)
    of_layer = jax.checkpoint(functools.partial(layer, CHOICE), policy=REMAT_POLICIES["kernels"])
    jax.ad_checkpoint.print_saved_residuals(of_layer, q, k, v, jnp.asarray(FEW, jnp.int32))
    saved = [line for line in capsys.readouterr().out.splitlines() if "argument" not in line]
    assert len(saved) == 2
    assert all(f"named '{attention_passes.KEPT}'" in line for line in saved)
    assert saved[0].startswith("f32[2,41,4,8]")
    assert saved[1].startswith("f32[2,4,41]")


def test_statistics_by_document_and_by_row_are_one_another():
    segments = np.stack([rows(3, 5, 2), rows(10), rows(4, -6)])
    x = np.random.default_rng(0).normal(size=(3, 2, 10)).astype(np.float32)
    got = np.asarray(of_documents(jnp.asarray(x), jnp.asarray(segments), 4))
    want = np.full((12, 2, 10), LARGEST, np.float32)
    for n, (row, begin, end) in enumerate([(0, 0, 3), (0, 3, 8), (0, 8, 10), (1, 0, 10), (2, 0, 4), (2, 4, 10)]):
        want[n, :, : end - begin] = x[row, :, begin:end]
    np.testing.assert_array_equal(got[:6], want[:6])
    np.testing.assert_array_equal(of_rows(jnp.asarray(got), jnp.asarray(segments)), x)
    assert (got[6:] == LARGEST).all()


def test_cudnn_s_own_layout_of_statistics_is_understood(monkeypatch):
    """In place of cuDNN a stand-in that computes by its offsets and keeps its statistics as XLA lays them out."""
    monkeypatch.setattr(cudnn, "_packed_module", lambda: STAND_IN)
    inputs = arrays(41, 4, 2)
    segments = np.stack([rows(*[2] * 15, 11), rows(40, -1)])
    check(with_gradients(cudnn.PACKED, *inputs, segments), attention_float64.attention(*inputs, 0.3, segments, 20))


def _ids_of(offsets, lengths, s):
    """Ids of rows from what cuDNN is given; -1 is nothing."""
    index = jnp.arange(s)[None, :, None]
    at = offsets[:, None, :-1]
    inside = (index >= at) & (index < at + lengths[:, None]) & (lengths[:, None] > 0)
    return jnp.argmax(inside, axis=-1) + 1


def _as_documents(log_sum, ids, most):
    number = np.concatenate([np.asarray(i) - 1 + sum(int(x.max()) for x in ids[:n]) for n, i in enumerate(ids)])
    out = np.full((len(ids) * most, log_sum.shape[1], ids.shape[1]), GARBAGE, np.float32)
    flat = np.asarray(log_sum).swapaxes(1, 2).reshape(-1, log_sum.shape[1])
    for n in range(number.max() + 1):
        out[n, :, : (number == n).sum()] = flat[number == n].T
    return out


def _stand_in_forward(q, k, v, *, scale, q_seqlen, q_offsets, sliding_window_length, return_residual, **rest):
    assert return_residual
    assert rest["kv_offsets"] is q_offsets
    ids = _ids_of(q_offsets, q_seqlen, q.shape[1])
    out, log_sum = dense_forward(q, k, v, ids, logits=Logits(scale, sliding_window_length))
    most = q_seqlen.shape[1]
    shape = jax.ShapeDtypeStruct((q.shape[0] * most, q.shape[2], q.shape[1]), jnp.float32)
    return out, jax.pure_callback(functools.partial(_as_documents, most=most), shape, log_sum, ids)


def _stand_in_backward(*operands, scale, sliding_window_length, **_):
    q, k, v, lengths, at, statistics, out, d_out = (operands[i] for i in (0, 1, 2, 4, 6, 10, 11, 12))
    assert statistics.shape == (q.shape[0] * lengths.shape[1], q.shape[2], q.shape[1])
    ids = _ids_of(at, lengths, q.shape[1])
    log_sum = of_rows(statistics, ids)
    return dense_backward(q, k, v, ids, out, log_sum, d_out, logits=Logits(scale, sliding_window_length))


STAND_IN = SimpleNamespace(
    MaskType=SimpleNamespace(PADDING_CAUSAL=None),
    AttentionLayout=SimpleNamespace(BTNH=SimpleNamespace(value=0)),
    dot_product_attention=_stand_in_forward,
    _dot_product_attention_bwd_p_wrapper=SimpleNamespace(bind=_stand_in_backward),
)


def test_the_private_passes_of_cudnn_are_there_and_take_what_they_are_given(monkeypatch):
    module = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(module, "check_compute_capability", lambda capability: float(capability) <= 9.0)
    monkeypatch.setattr(module, "is_cuda_compute_capability_equal", lambda capability: False)
    q, k, v, d_out = (x.astype(jnp.bfloat16) for x in arrays(41, 4, 2))
    ids = jnp.asarray(FEW, jnp.int32)
    out, log_sum = jax.eval_shape(functools.partial(cudnn.forward, logits=LOGITS), q, k, v, ids)
    assert (out.shape, log_sum.shape, log_sum.dtype) == (q.shape, (2, 4, 41), jnp.float32)
    back = functools.partial(cudnn.backward, logits=LOGITS)
    gradients = jax.eval_shape(back, q, k, v, ids, out, log_sum, d_out)
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in (q, k, v)]


def test_packed_rows_are_refused_where_the_private_backward_pass_is_lost(monkeypatch):
    monkeypatch.setattr(cudnn, "_missing", lambda: None)
    assert cudnn.refuses(H100) is None
    monkeypatch.setattr(cudnn, "_packed_module", SimpleNamespace)
    assert "no _dot_product_attention_bwd_p_wrapper" in cudnn.refuses(H100)
    assert cudnn.refuses(dataclasses.replace(H100, segments=False)) is None


def test_tokamax_s_passes_by_themselves_are_those_of_its_reference(monkeypatch):
    """Its own attention in plain XLA, in place of the kernel: the same arguments, statistics and gradients."""
    if (reason := mosaic.importable()) is not None:
        pytest.skip(reason)
    base = importlib.import_module("tokamax._src.ops.attention.base")
    reference = functools.partial(base.DotProductAttention, vjp=base.DotProductAttentionVjp())
    monkeypatch.setattr(mosaic, "_modules", lambda: (base.Mask, reference))
    inputs = arrays(41, 4, 2)
    for logits in (LOGITS, dataclasses.replace(LOGITS, softcap=2.0)):
        got = with_gradients(mosaic.PASSES, *inputs, FEW, logits)
        options = {"window": logits.window, "softcap": logits.softcap}
        check(got, attention_float64.attention(*inputs, 0.3, FEW, **options))
