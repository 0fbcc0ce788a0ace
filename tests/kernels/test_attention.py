"""Every attention implementation against float64 arithmetic written as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.kernels.attention import attention


def by_loops(q, k, v, scale, segments=None, window=None, softcap=None):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    b, s, h, _ = q.shape
    group = h // k.shape[2]
    out = np.zeros_like(q)
    for i in range(b):
        for n in range(h):
            for row in range(s):
                keys = [
                    t
                    for t in range(row + 1)
                    if (window is None or row - t < window) and (segments is None or segments[i, t] == segments[i, row])
                ]
                logits = np.array([q[i, row, n] @ k[i, t, n // group] for t in keys]) * scale
                if softcap:
                    logits = softcap * np.tanh(logits / softcap)
                w = np.exp(logits - logits.max())
                out[i, row, n] = (w / w.sum()) @ v[i, keys, n // group]
    return out


def inputs(s, h, kv, hd, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return tuple(jax.random.normal(k, (2, s, n, hd)) for k, n in zip(keys, (h, kv, kv)))


OPTIONS = [{}, {"window": 5}, {"softcap": 3.0}, {"segments": True}, {"window": 3, "segments": True, "softcap": 2.0}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_xla_attention_equals_loops_in_float64(options):
    q, k, v = inputs(16, 6, 2, 8)
    options = dict(options)
    seg = np.array([[1] * 6 + [2] * 10, [1] * 3 + [2] * 9 + [0] * 4]) if options.pop("segments", False) else None
    got = attention(
        q, k, v, scale=0.3, segment_ids=None if seg is None else jnp.array(seg), implementation="xla", **options
    )
    np.testing.assert_allclose(got, by_loops(q, k, v, 0.3, seg, **options), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"window": 40, "softcap": 3.0}], ids=str)
def test_splash_attention_and_its_gradient_equal_xla(options):
    q, k, v = inputs(128, 4, 2, 64)
    seg = jnp.array([[1] * 60 + [2] * 68, [1] * 128])

    def loss(implementation):
        def f(q, k, v):
            out = attention(q, k, v, scale=0.125, segment_ids=seg, implementation=implementation, **options)
            return jnp.sum(jnp.sin(out)), out

        return jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    (_, want), grads = loss("xla")
    (_, got), got_grads = loss("splash")
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    for a, b in zip(got_grads, grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)


def test_splash_where_it_does_not_apply_is_refused_by_name():
    q, k, v = inputs(100, 4, 2, 64)
    with pytest.raises(JaxptError, match="sequence length 100 is not a multiple of 128"):
        attention(q, k, v, scale=1.0, implementation="splash")
