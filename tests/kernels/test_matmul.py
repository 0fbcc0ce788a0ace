"""Products in 8 bits against float64: what rounding may cost, and nothing more; what each implementation refuses."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.kernels.matmul import (
    IMPLEMENTATIONS,
    PREFERENCES,
    MatmulCall,
    choose,
    fp8,
    fp8_emulated,
    matmul,
    plain,
    quantised,
    scaling,
)
from jaxpt.kernels.matmul.call import call_of, contracted
from jaxpt.kernels.matmul.comparison import compare
from jaxpt.kernels.matmul.quantised import quantised_product
from jaxpt.kernels.matmul.scaling import GRADIENTS, VALUES, quantise

H200 = MatmulCall(32_768, 2048, 8192, "bfloat16", platform="gpu", device_kind="NVIDIA H200")
SMALL = MatmulCall(48, 64, 32, "bfloat16")
# format -> half a step of its mantissa; half a step below its normal numbers, of the largest value; largest; exponent
FACTS = {VALUES: (2**-4, 2**-10 / 224, 448.0), GRADIENTS: (2**-3, 2**-17 / 28_672, 57_344.0)}
EQUATIONS = {"bsd,df->bsf": ((48,), (32,)), "bsd,dnh->bsnh": ((48,), (4, 8)), "bsnh,nhd->bsd": ((6, 8), (32,))}


def tensors(kind: str, equation: str = "bsd,df->bsf", seed: int = 0, dtype=np.float32):
    """x, w and the gradient of the product, made so that something is hard about them."""
    rng = np.random.default_rng(seed)
    inner, outer = EQUATIONS[equation]
    x, w, g = (rng.normal(size=shape) for shape in ((2, 9, *inner), (*inner, *outer), (2, 9, *outer)))
    if kind == "outliers":
        x.flat[7], w.flat[3], g.flat[5] = 3000.0, -200.0, 1e5
    if kind == "huge":
        x, w, g = x * 1e15, w * 1e18, g * 1e10
    if kind == "small":
        x, w, g = x * 1e-12, w * 1e-3, g * 1e-15
    if kind == "zero":
        x, g = np.zeros_like(x), np.zeros_like(g)
    return [jnp.asarray(a, dtype) for a in (x, w, g)]


def product_and_gradients(run, equation, x, w, g):
    y, back = jax.vjp(lambda x, w: run(equation, x, w, None), x, w)
    return [np.asarray(a, np.float64) for a in (y, *back(g))]


def wide(equation, x, w, g):
    """The product and both gradients in float64."""
    factors, _, out = equation.partition("->")
    a, _, b = factors.partition(",")
    x, w, g = (np.asarray(a, np.float64) for a in (x, w, g))
    of = [(f"{a},{b}->{out}", x, w), (f"{out},{b}->{a}", g, w), (f"{a},{out}->{b}", x, g)]
    return [np.einsum(*one) for one in of]


def bounds(equation, x, w, g, sums):
    """What the product and both gradients may be off by: Σ |a||b|, with each factor off by what its format allows."""

    def off(a, dtype):
        relative, of_largest, _ = FACTS[dtype]
        return np.maximum(relative * np.abs(a), of_largest * np.abs(a).max())

    x, w, g = (np.asarray(a, np.float64) for a in (x, w, g))
    ex, ew, eg = off(x, VALUES), off(w, VALUES), off(g, GRADIENTS)
    sizes = [np.abs(a) for a in (x, w, g)]
    most = wide(equation, *(size + e for size, e in zip(sizes, (ex, ew, eg))))
    least = wide(equation, *sizes)
    return [(m - l) + sums * m + 1e-36 for m, l in zip(most, least)]


@pytest.mark.parametrize("dtype", [VALUES, GRADIENTS], ids=str)
@pytest.mark.parametrize("kind", ["normal", "outliers", "huge", "small", "zero"])
@pytest.mark.parametrize("given", ["float32", "bfloat16"])
def test_values_are_those_of_the_format_times_a_power_of_two(dtype, kind, given):
    x = tensors(kind, dtype=given)[0]
    q = quantise(x, dtype)
    exact, scale = np.asarray(x, np.float64), float(q.scale)
    assert scale > 0
    assert np.log2(scale) == round(np.log2(scale))
    rounded = (exact / scale).astype(np.float32).astype(np.dtype(dtype))
    assert np.array_equal(np.asarray(q.values, np.float64), rounded.astype(np.float64))
    largest = np.abs(rounded.astype(np.float64)).max()
    assert largest == 0 or FACTS[dtype][2] / 2 <= largest <= FACTS[dtype][2]


def test_a_largest_value_of_each_mantissa_just_fits():
    for step in range(64):
        x = jnp.asarray([1 + step / 64, 0.1], jnp.float32)
        q = quantise(x, VALUES)
        assert 224 < float(x[0] / q.scale) <= 448
        assert np.isfinite(np.asarray(q.values, np.float32)).all()


@pytest.mark.parametrize("name", ["fp8", "fp8_emulated"])
@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("kind", ["normal", "outliers", "huge", "small", "zero"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_product_and_gradients_are_within_the_rounding_of_their_factors(name, equation, kind, dtype):
    given = tensors(kind, equation, dtype=dtype)
    found = product_and_gradients(IMPLEMENTATIONS[name].run, equation, *given)
    sums = 1e-5 if dtype == "float32" else 2**-8
    for part, got, want, may in zip(("out", "dx", "dw"), found, wide(equation, *given), bounds(equation, *given, sums)):
        assert got.shape == want.shape, part
        assert np.isfinite(got).all(), part
        assert (np.abs(got - want) <= may).all(), part
    if kind == "zero":
        assert not found[0].any()
        assert not found[2].any()


def off_by(dot, length=48):
    """The largest error of the product by `dot`, of what the bound allows; sharp where one product is all of a sum."""
    x, w, g = tensors("normal")
    given = x[..., :length], w[:length], g
    run = lambda equation, x, w, _: quantised_product(x, w, contracted(equation), dot)  # noqa: E731
    found = product_and_gradients(run, "bsd,df->bsf", *given)
    exact, may = wide("bsd,df->bsf", *given), bounds("bsd,df->bsf", *given, 1e-5)
    return [float((np.abs(a - b) / c).max()) for a, b, c in zip(found, exact, may)]


def test_a_scale_left_out_breaks_the_bound():
    right = fp8_emulated._dot
    assert max(off_by(right)) <= 1
    assert min(off_by(lambda a, b, *rest: right(a._replace(scale=jnp.ones(())), b, *rest))) > 1


def test_a_bit_less_than_the_format_has_breaks_the_bound(monkeypatch):
    assert 0.7 < off_by(fp8_emulated._dot, 1)[0] <= 1
    monkeypatch.setattr(quantised, "quantise", lambda a, dtype: quantise(a, GRADIENTS))
    assert off_by(fp8_emulated._dot, 1)[0] > 1.3


@pytest.mark.parametrize("name", ["fp8", "fp8_emulated"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(name, bad):
    x, w, g = tensors("normal")
    for spoiled in ((x.at[0, 0, 0].set(bad), w, g), (x, w.at[0, 0].set(bad), g), (x, w, g.at[0, 0, 0].set(bad))):
        found = product_and_gradients(IMPLEMENTATIONS[name].run, "bsd,df->bsf", *spoiled)
        assert not all(np.isfinite(a).all() for a in found)


def test_the_native_product_and_the_emulated_one_give_the_same_numbers():
    for equation in EQUATIONS:
        given = tensors("outliers", equation)
        pairs = zip(*(product_and_gradients(k.run, equation, *given) for k in (fp8, fp8_emulated)))
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_plain_is_the_product_in_the_dtype_of_the_factors():
    x, w, _ = tensors("normal", "bsnh,nhd->bsd", dtype="bfloat16")
    found, wanted = matmul("bsnh,nhd->bsd", x, w), jnp.einsum("bsnh,nhd->bsd", x, w)
    assert found.dtype == wanted.dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (found, wanted)), rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("on", ["cpu", "gpu"])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_plain_gradients_are_those_of_float64_and_on_a_cpu_the_narrow_factor_comes_first(monkeypatch, equation, on):
    monkeypatch.setattr(plain, "platform", lambda: on)
    given = tensors("normal", equation)
    for found, exact in zip(product_and_gradients(plain.run, equation, *given), wide(equation, *given)):
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())

    def of_matrix(x, w, g):
        return jax.vjp(lambda w: plain.run(equation, x, w, None), w)[1](g)

    jaxpr = jax.make_jaxpr(of_matrix)(*given).jaxpr
    first = [e.invars[0] for e in jaxpr.eqns if e.primitive.name == "dot_general"][-1]
    assert (first is jaxpr.invars[0]) == (on == "cpu")  # a GPU's own order is as fast


def products_given_to(name):
    """The lines of the program that multiply: the product, and its two gradients."""

    def of(x, w, g):
        y, back = jax.vjp(lambda x, w: IMPLEMENTATIONS[name].run("bsd,df->bsf", x, w, None), x, w)
        return y, back(g)

    text = jax.jit(of).lower(*tensors("normal", dtype="bfloat16")).as_text()
    return [line for line in text.splitlines() if "dot_general" in line]


@pytest.mark.parametrize("on", ["gpu", "tpu"])
def test_eight_bits_are_what_the_compiler_is_given(monkeypatch, on):
    monkeypatch.setattr(fp8, "platform", lambda: on)
    forward, *gradients = products_given_to("fp8")
    assert forward.count("f8E4M3FN") == 2
    assert "HIGHEST" not in forward
    for gradient in gradients:
        assert "f8E4M3FN" in gradient
        assert "f8E5M2" in gradient
        assert ("HIGHEST" in gradient) == (on == "gpu")
    assert not any("f8E" in line for line in products_given_to("plain") + products_given_to("fp8_emulated"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device_kind": "NVIDIA A100-SXM4-80GB"}, "it needs Ada, Hopper or Blackwell, this is NVIDIA A100-SXM4-80GB"),
        ({"device_kind": "AMD Instinct MI300X"}, "it needs Ada, Hopper or Blackwell, this is AMD"),
        ({"platform": "tpu", "device_kind": "TPU v6 lite"}, "it needs a TPU7x or newer, this is TPU v6 lite"),
        ({"platform": "cpu", "device_kind": "cpu"}, "it needs a GPU or TPU with 8-bit units, this is cpu; fp8_emul"),
        ({"dtype": "float32"}, "it is for compute.dtype=bfloat16, not float32"),
        ({"width_out": 1000}, "widths 2048 and 1000 are not both multiples of 16"),
    ],
    ids=str,
)
def test_a_refusal_says_why(changes, reason):
    with pytest.raises(JaxptError, match=rf"^matmul=fp8: 'fp8' does not apply: {reason}.*; use auto or plain"):
        choose(dataclasses.replace(H200, **changes), ["fp8"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"device_kind": "NVIDIA L4"},
        {"device_kind": "NVIDIA H100 80GB HBM3"},
        {"device_kind": "NVIDIA B200"},
        {"platform": "tpu", "device_kind": "TPU7x"},
    ],
    ids=str,
)
def test_it_is_taken_by_name_where_the_hardware_has_it_and_never_otherwise(changes):
    call = dataclasses.replace(H200, **changes)
    assert choose(call, ["fp8"]).name == "fp8"
    assert choose(call).name == "plain"
    assert choose(dataclasses.replace(call, dtype="float32"), ["fp8", "plain"]).name == "plain"


def test_every_preference_ends_with_what_takes_every_call():
    assert {entries[-1].name for entries in PREFERENCES.values()} == {"plain"}


def test_a_call_is_read_off_an_equation():
    x, w, _ = tensors("normal", "bsnh,nhd->bsd")
    call = call_of("bsnh,nhd->bsd", x, w)
    assert (call.rows, call.width_in, call.width_out, call.dtype) == (18, 48, 32, "float32")
    for other in ("bsd,fd->bsf", "bsd,df->bfs", "bsd,ef->bsef"):
        with pytest.raises(ValueError, match="the last dimensions of the first factor"):
            contracted(other)


@pytest.mark.parametrize("name", ["fp8", "fp8_emulated"])
def test_a_right_product_passes_the_comparison_at_start(name):
    found = compare(name, SMALL)
    assert found.reason is None
    assert set(found.errors) == {
        f"{part} ({kind})" for part in ("out", "dx", "dw") for kind in ("largest", "by position")
    }


def _unscaled(a, b, *rest):
    return fp8._dot(a, b._replace(scale=jnp.ones(())), *rest)


def _doubled_gradients(a, b, axes, dtype, exact):
    return fp8._dot(a, b, axes, dtype, exact) * (1.1 if exact else 1)


@pytest.mark.parametrize("dot", [_unscaled, _doubled_gradients])
def test_a_wrong_product_does_not(monkeypatch, dot):
    run = lambda equation, x, w, precision: quantised_product(x, w, contracted(equation), dot)  # noqa: E731
    monkeypatch.setitem(IMPLEMENTATIONS, "planted", SimpleNamespace(refuses=lambda call: None, run=run))
    assert compare("planted", SMALL).reason.startswith("it differs from 'fp8_emulated': error ")


def test_the_rounding_of_the_formats_is_what_the_papers_say():
    for dtype, (half_step, _, largest) in FACTS.items():
        info = ml_dtypes.finfo(dtype)
        assert float(info.max) == largest
        assert float(info.eps) / 2 == half_step
        assert scaling._TOP[np.dtype(dtype)] == np.log2(largest / 1.75)
