"""Growth keeps the function, to the bit where nothing is summed anew; shrinking undoes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models import flatten, forward, param_specs
from jaxpt.optim.freezing import trainable
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import AxisMap, pad, rewrite_axes, select
from jaxpt.reshape.depth import drop_layers
from jaxpt.reshape.grow import aki, depth_up_scale, fpi, interpolate, llama_pro, stack
from tests.models.tiny import VARIANTS, config
from tests.reshape.proofs import TOKENS, close, logits, random_params, reshaped

C = config()
P = random_params(C)
WANT = logits(C, P)


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2", "moe_mixed"])
def test_llama_pro_leaves_the_logits_equal_bit_for_bit(name):
    c = VARIANTS[name]
    p = random_params(c)
    rewrite = llama_pro(c, 2)
    np.testing.assert_array_equal(reshaped(rewrite, p), logits(c, p))
    back = drop_layers(rewrite.target, rewrite.entry["options"]["blocks"])
    again = apply(back, apply(rewrite, p))
    for path, leaf in flatten(again).items():
        np.testing.assert_array_equal(leaf, flatten(p)[path], err_msg=path)


def test_llama_pro_trains_the_new_blocks_and_nothing_else():
    rewrite = llama_pro(C, 1)
    masks = flatten(trainable(rewrite.target, param_specs(rewrite.target), rewrite.entry["freeze"]))
    (block,) = rewrite.entry["options"]["blocks"]
    for path, m in masks.items():
        want = np.arange(4) == block if path.startswith("blocks/") else False
        np.testing.assert_array_equal(np.ravel(m), want, err_msg=path)
    grown = apply(rewrite, P)
    grads = jax.grad(lambda p: jnp.sum(forward(rewrite.target, p, TOKENS) ** 2))(grown)["blocks"]["dense"]
    for name in ("o", "down"):
        assert float(jnp.abs(grads[name][block]).max()) > 0, name


@pytest.mark.parametrize(("axis", "size"), [("embed", 31), ("mlp", 57), ("embed", 48)])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_fpi_keeps_the_function_at_uneven_sizes_with_and_without_noise(axis, size, noise):
    close(reshaped(fpi(C, axis, size, 1, noise), P), WANT, 1e-4)


def test_noise_breaks_the_symmetry_of_copies():
    rank = lambda noise: np.linalg.matrix_rank(  # noqa: E731
        apply(fpi(config(mlp=8), "mlp", 16, 1, noise), random_params(config(mlp=8)))["blocks"]["dense"]["down"][0],
        tol=1e-4,
    )
    assert rank(0.0) == 8
    assert rank(0.1) > 8


def test_uneven_duplication_by_the_published_rule_changes_the_function():  # the proof above can fail
    index = np.concatenate([np.arange(24), np.arange(7)])
    count = (index[:, None] == index[None]).sum(1).astype(np.float64)
    published = rewrite_axes(C, {"embed": AxisMap(index, 1 / count)})
    assert np.abs(reshaped(published, P) - WANT).max() > 1e-2 * np.abs(WANT).max()


@pytest.mark.parametrize(("axis", "size"), [("embed", 31), ("mlp", 57)])
def test_zero_padding_then_cutting_returns_the_parameters(axis, size):
    rewrite = pad(C, axis, size)
    close(reshaped(rewrite, P), WANT)
    old = select(rewrite.target, axis, np.arange(getattr(C, axis)))
    again = flatten(apply(old, apply(rewrite, P)))
    for path, leaf in again.items():
        ratio = (24 / 31) ** 0.5 if axis == "embed" and path.endswith("norm") else 1.0
        np.testing.assert_allclose(leaf, ratio * flatten(P)[path], rtol=1e-6, err_msg=path)


def test_aki_takes_the_next_layers_neurons_and_says_it_is_inexact():
    rewrite, same = aki(C, 57, 1), fpi(C, "mlp", 57, 1)
    a, f = (apply(p, P)["blocks"]["dense"] for p in (rewrite, same))
    for name in ("gate", "up"):
        np.testing.assert_array_equal(a[name][..., :40], f[name][..., :40])
        np.testing.assert_array_equal(a[name][2], f[name][2])  # the last layer's are its own
        for l in (0, 1):
            theirs = P["blocks"]["dense"][name][l + 1].T
            assert all((theirs == column).all(-1).any() for column in a[name][l, :, 40:].T)
    np.testing.assert_array_equal(a["down"], f["down"])
    assert rewrite.entry["exact"] is False
    assert np.abs(reshaped(rewrite, P) - WANT).max() > 1e-3


@pytest.mark.parametrize(
    ("rewrite", "order"),
    [
        (stack(C, 7), [0, 1, 2, 0, 1, 2, 2]),
        (interpolate(C, 5), [0, 0, 1, 1, 2]),
        (depth_up_scale(C, 1), [0, 1, 1, 2]),
    ],
    ids=["stack", "interpolate", "depth_up_scale"],
)
def test_deeper_models_hold_the_layers_in_the_stated_order(rewrite, order):
    np.testing.assert_array_equal(apply(rewrite, P)["blocks"]["dense"]["q"], P["blocks"]["dense"]["q"][order])
    assert len(rewrite.target.layers) == len(order)
