"""Splash of both libraries, interpreted, against float64; its tiles fit a TPU's memory, compiled without a TPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpt.kernels.attention import attention, splash
from jaxpt.kernels.attention.splash_tiles import ANY, BY_CHIP, Tiles, tiles
from jaxpt.planning import topology_devices
from tests.kernels import attention_float64
from tests.kernels.test_attention import arrays, rows, with_gradients

DOCUMENTS = np.stack([rows(128, 60, 70, 126), rows(384)])
CASES = {
    "documents": (DOCUMENTS, {}),
    "padding": (np.stack([rows(200, -184), rows(128, -128, 128)]), {}),
    "window": (DOCUMENTS, {"window": 100, "softcap": 3.0}),
}
TOPOLOGIES = {"v5e:2x2": "TPU v5 lite", "v5p:2x2x1": "TPU v5", "v6e:2x2": "TPU v6 lite"}


@pytest.fixture(params=["jax", "tokamax"])
def home(request, monkeypatch):
    """Each library's kernel in turn, in three tiles a row."""
    if request.param == "tokamax" and not splash.tokamax_is_there():
        pytest.skip("tokamax, in the version that splash takes, is not installed (jaxpt[gpu], Python 3.12)")
    monkeypatch.setattr(splash, "tokamax_is_there", lambda: request.param == "tokamax")
    monkeypatch.setattr(splash, "tiles", lambda *_: Tiles(128, 128, 128))
    return request.param


@pytest.mark.parametrize(("case", "kv"), [("documents", 2), ("documents", 1), ("padding", 2), ("window", 4)])
def test_rows_of_several_tiles_equal_float64(home, case, kv):
    segments, options = CASES[case]
    inputs = arrays(384, 4, kv, 64)
    got = with_gradients("splash", *inputs, segments, scale=0.125, **options)
    want = attention_float64.attention(*inputs, 0.125, segments, **options)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)


def test_tokamax_does_not_compute_blocks_that_no_document_reaches(home):
    """NaN in another document's keys and values: what is computed and weighted with 0 becomes NaN."""
    q, k, v, d_out = arrays(384, 4, 2, 64)
    segments = np.stack([rows(128, 256)] * 2)
    k, v, d_out = k.at[:, :128].set(jnp.nan), v.at[:, :128].set(jnp.nan), d_out.at[:, :128].set(0)
    out, dq, dk, dv = (np.asarray(x)[:, 128:] for x in with_gradients("splash", q, k, v, d_out, segments))
    assert all(np.isfinite(x).all() for x in (out, dq, dk, dv)) == (home == "tokamax")


def test_tiles_divide_the_row_and_are_no_larger_than_listed():
    for chip, listed in {**{f"{chip} chip": t for chip, t in BY_CHIP.items()}, "TPU v4": ANY}.items():
        for length in range(128, 4097, 128):
            found = tiles(chip, length, 256)
            assert length % found.queries == length % found.keys == found.keys % found.keys_at_once == 0
            assert found.queries <= listed.queries
            assert found.keys <= listed.keys
        assert tiles(chip, 8192, 256) == listed
        assert tiles(chip, 8192, 512) == ANY


def test_a_chip_is_known_by_what_it_calls_itself():
    assert tiles("TPU v5 lite", 4096, 256).queries == 1024
    assert tiles("TPU v5", 4096, 256) == tiles("TPU v5p", 4096, 256) == Tiles(2048, 512, 512)


@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.parametrize(
    ("topology", "dtype", "head_dim"),
    [*((chip, "bfloat16", 128) for chip in TOPOLOGIES), ("v5e:2x2", "bfloat16", 256), ("v5p:2x2x1", "float32", 128)],
)
def test_the_tiles_fit_the_chip(topology, dtype, head_dim, monkeypatch):
    pytest.importorskip("libtpu")
    devices = topology_devices(topology)
    assert devices[0].device_kind.startswith(TOPOLOGIES[topology])
    mesh = Mesh(np.array(devices[:1]), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    array = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(  # noqa: E731
        shape, dtype, sharding=NamedSharding(mesh, PartitionSpec())
    )
    chosen = []
    monkeypatch.setattr(splash, "tiles", lambda *of: chosen.append(tiles(*of)) or chosen[-1])

    def loss(q, k, v, ids):
        return attention(q, k, v, scale=0.1, segment_ids=ids, implementation="splash").astype(jnp.float32).sum()

    q, kv = array(1, 4096, 4, head_dim), array(1, 4096, 2, head_dim)
    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, kv, kv, array(1, 4096, dtype="int32")).compile()
    assert set(chosen) == {tiles(devices[0].device_kind, 4096, head_dim * jnp.dtype(dtype).itemsize)}
    assert program.memory_analysis().temp_size_in_bytes < 2**29
