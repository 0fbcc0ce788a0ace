"""The kernels that skip hidden documents, interpreted on a CPU with its checks for races, against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.kernels.attention import blocked, hopper_gradients, mosaic, skipping
from jaxpt.kernels.attention.call import Logits
from jaxpt.kernels.attention.hopper_gradients import BLOCK, TILE, bounds
from jaxpt.kernels.attention.passes import Passes, attend
from jaxpt.kernels.comparison import errors
from jaxpt.kernels.machine import numbers
from tests.kernels import attention_float64
from tests.kernels.test_attention import rows

INTERPRETED = pytest.mark.skipif(numbers(jax.__version__) < skipping.SINCE, reason="needs Pallas of JAX 0.11.2")
CASES = {  # (H, K, head_dim), ids of one row, options
    "documents at blocks' edges and off by one": ((1, 1, 64), rows(64, 64, 63, 65), {}),
    "seven query heads to a kv head": ((7, 1, 64), rows(63, 2, 63), {}),
    "S not a multiple of a tile, padding at the end": ((2, 1, 64), rows(1, 100, 60, -39), {}),
    "a row of padding, two kv heads of 128": ((2, 2, 128), rows(-128), {}),
    "window and softcap": ((2, 1, 64), rows(30, 226), {"window": 70, "softcap": 2.0}),
    "one document": ((1, 1, 64), None, {}),
}
ALLOWED = 0.02  # of bfloat16: the float64 figures rounded are as far off


def arrays(s, h, kv, hd):
    rng = np.random.default_rng(s * h)
    return tuple(jnp.asarray(rng.normal(size=(1, s, n, hd)), jnp.bfloat16) for n in (h, kv, kv, h))


def passes(monkeypatch):
    """The backward pass interpreted, after a forward pass that a CPU has."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    interpreted = functools.partial(hopper_gradients.gradients, interpret=plgpu.InterpretGPUParams(detect_races=True))
    monkeypatch.setattr(skipping.hopper_gradients, "gradients", interpreted)
    return Passes(blocked.forward, skipping.backward)


def gradients(monkeypatch, q, k, v, d_out, ids, **options):
    logits, kernel = Logits(0.1, **options), passes(monkeypatch)
    ids = None if ids is None else jnp.asarray(ids, jnp.int32)[None]
    out, back = jax.vjp(lambda q, k, v: attend(q, k, v, ids, logits, kernel), q, k, v)
    return back(d_out.astype(out.dtype))


def differences(got, want):
    """As the comparison at a run's start has them: the largest, and by position."""
    return errors({part: (a[0].astype(jnp.float32), b[0]) for part, a, b in zip(("dq", "dk", "dv"), got, want)})


@INTERPRETED
@pytest.mark.newest
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_float64(monkeypatch, case):
    shape, ids, options = CASES[case]
    inputs = arrays(256 if ids is None else len(ids), *shape)
    got = gradients(monkeypatch, *inputs, ids, **options)
    want = attention_float64.attention(*inputs, 0.1, None if ids is None else ids[None], **options)[1:]
    assert max(differences(got, want).values()) < ALLOWED


@INTERPRETED
@pytest.mark.newest
@pytest.mark.parametrize("which", [0, 1])
def test_bounds_that_are_a_block_short_are_caught(monkeypatch, which):  # the proof above can fail
    def short(first_keys):
        first, last = bounds(first_keys)
        return (first + 1, last) if which == 0 else (first, last - 1)

    monkeypatch.setattr(hopper_gradients, "bounds", short)
    inputs, ids = arrays(256, 1, 1, 64), rows(256)
    got = differences(gradients(monkeypatch, *inputs, ids), attention_float64.attention(*inputs, 0.1, ids[None])[1:])
    assert got[("dq", "dk")[which] + " (by position)"] > 5 * ALLOWED


@INTERPRETED
@pytest.mark.newest
def test_documents_off_by_one_are_caught(monkeypatch):
    inputs = arrays(256, 1, 1, 64)
    got = gradients(monkeypatch, *inputs, rows(130, 126))
    wrong = attention_float64.attention(*inputs, 0.1, rows(129, 127)[None])[1:]
    assert differences(got, wrong)["dq (by position)"] > 2 * ALLOWED


@INTERPRETED
@pytest.mark.newest
def test_tiles_of_other_documents_are_not_read(monkeypatch):
    """NaN in all of another document: what is fetched and weighted with 0 would become NaN."""
    q, k, v, d_out = arrays(256, 1, 1, 64)
    ids = rows(128, 128)
    want = gradients(monkeypatch, q, k, v, d_out, ids)
    for hidden, kept in ((slice(0, 128), slice(128, 256)), (slice(128, 256), slice(0, 128))):
        planted = [x.at[:, hidden].set(jnp.nan) for x in (q, k, v, d_out)]
        for a, b in zip(gradients(monkeypatch, *planted, ids), want):
            np.testing.assert_array_equal(a[:, kept], b[:, kept])
            assert not np.isfinite(a[:, hidden].astype(jnp.float32)).any()


@pytest.mark.parametrize("window", [None, 1, 100, 300])
@pytest.mark.parametrize("seed", range(3))
def test_the_blocks_that_are_visited_are_those_with_a_visible_pair(seed, window):
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, 640), rng.integers(0, 12), replace=False))
    ids = np.searchsorted(cuts, np.arange(640), side="right") + 1
    first_keys = mosaic.first_keys(jnp.asarray(ids)[None], 640, window)
    first, last = (np.asarray(x)[0] for x in bounds(first_keys))
    index = np.arange(640)
    seen = (ids[:, None] == ids) & (index[:, None] >= index)
    seen &= index[:, None] - index < (window or 640)
    pairs = lambda q, k: seen.reshape(640 // q, q, 640 // k, k).any((1, 3))  # noqa: E731
    blocks, per = np.arange(640 // BLOCK), TILE // BLOCK
    tile = np.arange(640 // TILE)[:, None]
    of_queries = (blocks >= first[:, None]) & (blocks < (tile + 1) * per)
    np.testing.assert_array_equal(of_queries, pairs(TILE, BLOCK))
    of_keys = (blocks >= tile * per) & (blocks < last[:, None])
    np.testing.assert_array_equal(of_keys, pairs(BLOCK, TILE).T)


def test_what_is_visited_is_in_proportion_to_what_is_visible():
    ids = np.repeat(np.arange(8), 512)
    first, last = bounds(mosaic.first_keys(jnp.asarray(ids)[None], 4096, None))
    tiles = np.arange(1, 4096 // TILE + 1) * (TILE // BLOCK)
    visits = int((tiles - np.asarray(first)).sum()), int((np.asarray(last) - tiles + TILE // BLOCK).sum())
    whole = int(tiles.sum())
    visible = 8 * 512 * 513 / 2 / (4096 * 4097 / 2)
    assert all(visible <= n / whole < 1.25 * visible for n in visits)
