"""All grouped products compute the dense reference, gradients included; which is taken, and a wrong one is caught."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.kernels.grouped import IMPLEMENTATIONS, PREFERENCES, GroupedCall, choose, grouped_matmul, mosaic, tiled
from jaxpt.kernels.grouped.comparison import compare, uneven

SIZES = {"even": [10, 10, 10, 10], "skewed": [37, 0, 2, 1], "empty_ends": [0, 40, 0, 0], "rows_left": [5, 9, 0, 3]}


def parts():
    keys = jax.random.split(jax.random.key(0), 3)
    return (jax.random.normal(k, s) for k, s in zip(keys, [(40, 8), (4, 8, 6), (40, 6)]))


def value_and_grads(name, sizes):
    x, w, dy = parts()

    def f(x, w):
        y = grouped_matmul(x, w, jnp.array(sizes), implementation=name, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(y * dy), y

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(x, w)


@pytest.mark.parametrize("name", ["tiled", "ragged_dot", "auto", "megablox"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_value_and_gradients_are_the_dense_reference(name, sizes):
    for a, b in zip(jax.tree.leaves(value_and_grads(name, sizes)), jax.tree.leaves(value_and_grads("dense", sizes))):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_another_split_of_the_rows_is_another_product():  # the proof above can fail
    a, b = (value_and_grads("tiled", SIZES[n])[0][1] for n in ("even", "skewed"))
    assert not np.allclose(a, b, atol=1e-2)


H200 = GroupedCall(
    65536, 64, 2048, 1024, "bfloat16", None, "gpu", "NVIDIA H200", (("jax", "0.11.2"), ("tokamax", "0.0.17"))
)
V5E = dataclasses.replace(H200, platform="tpu", device_kind="TPU v5 lite")
SMALL = GroupedCall(60, 4, 16, 24, "float32", "HIGHEST")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (H200, "mosaic"),
        (dataclasses.replace(H200, dtype="float32"), "ragged_dot"),
        (dataclasses.replace(H200, device_kind="NVIDIA B200"), "ragged_dot"),
        (dataclasses.replace(H200, versions=()), "ragged_dot"),
        (V5E, "megablox"),
        (dataclasses.replace(V5E, width_out=1000), "ragged_dot"),
        (dataclasses.replace(V5E, dtype="float32"), "ragged_dot"),
        (dataclasses.replace(H200, platform="cpu"), "tiled"),
    ],
    ids=str,
)
def test_each_platform_takes_the_first_that_applies(monkeypatch, call, name):
    monkeypatch.setattr(mosaic, "importable", lambda: None)
    assert choose(call).name == name


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("mosaic", {"device_kind": "NVIDIA A100-SXM4-80GB"}, "it needs Hopper, this is NVIDIA A100"),
        ("mosaic", {"dtype": "float32"}, "not float32"),
        ("mosaic", {"width_in": 100}, "widths 100 and 1024 are not both multiples of 64"),
        ("mosaic", {"versions": (("tokamax", "0.0.18"),)}, "needs tokamax 0.0.17, 0.0.18 is installed"),
        ("mosaic", {"platform": "cpu"}, "for NVIDIA GPUs"),
        ("megablox", {}, "for TPUs"),
    ],
    ids=str,
)
def test_a_refusal_says_why(name, changes, reason):
    with pytest.raises(JaxptError, match=rf"^grouped_matmul={name}: '{name}' does not apply: .*{reason}"):
        choose(dataclasses.replace(H200, **changes), [name])


def test_every_preference_ends_with_what_takes_every_call():
    for entries in PREFERENCES.values():
        assert entries[-1].name == "ragged_dot"
        assert {e.name for e in entries} <= set(IMPLEMENTATIONS)


def test_sizes_of_a_comparison_leave_a_group_empty_and_rows_over():
    sizes = uneven(1000, 7)
    assert sizes[3] == 0
    assert 900 < sizes.sum() < 1000
    assert (uneven(40, 1) < 40).all()


@pytest.mark.parametrize("name", ["tiled", "ragged_dot", "megablox"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_kernel_passes_the_comparison(name, dtype):
    call = dataclasses.replace(SMALL, dtype=dtype, precision="HIGHEST" if dtype == "float32" else None)
    found = compare(name, call)
    assert found.reason is None
    assert set(found.errors) == {
        f"{part} ({kind})" for part in ("out", "dx", "dw") for kind in ("largest", "by position")
    }


def _shifted(x, w, sizes, precision):
    """The second group takes a row of the first."""
    return tiled.run(x, w, sizes.at[0].add(-1).at[1].add(1), precision)


def _left(x, w, sizes, precision):
    """Rows after the last group are as they were in memory."""
    return tiled.run(x, w, sizes.at[-1].add(2), precision)


@jax.custom_vjp
def _twice(x):
    return x


_twice.defvjp(lambda x: (x, None), lambda _, d: (d.at[0].multiply(1.1),))

WRONG = {
    "a row of another group": (_shifted, "out"),
    "rows that are left": (_left, "out"),
    "the gradient of one matrix": (lambda x, w, sizes, precision: tiled.run(x, _twice(w), sizes, precision), "dw"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_planted_wrong_kernel_is_caught(monkeypatch, what):
    run, part = WRONG[what]
    monkeypatch.setitem(IMPLEMENTATIONS, "planted", SimpleNamespace(refuses=lambda call: None, run=run))
    reason = compare("planted", dataclasses.replace(SMALL, dtype="bfloat16", precision=None)).reason
    assert reason is not None
    assert reason.startswith("it differs from 'dense': error ")
    assert f" of {part}" in reason or part == "out"
