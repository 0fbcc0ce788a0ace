"""What the forward pass asks of masks: norms that count what is left, experts that are not seen, rows by structure."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from jaxpt.models import forward
from jaxpt.models.masks import counted, factors, gate_axes, layers_with, stacked_gates, with_mask
from jaxpt.models.moe_config import MoeConfig
from jaxpt.models.norms import rms_norm
from jaxpt.models.routing import route
from jaxpt.models.specs import block_specs
from tests.models.tiny import VARIANTS, random_params


def test_the_masked_norm_is_the_norm_of_the_sliced_vector():
    x, gain = jax.random.normal(jax.random.key(0), (3, 16)), jnp.arange(16.0) / 8
    left = np.array([0, 3, 4, 9, 15])
    mask = jnp.zeros(16).at[left].set(1.0)
    whole = rms_norm(x * mask, gain, 1e-2, width=counted(mask))
    np.testing.assert_allclose(whole[:, left], rms_norm(x[:, left], gain[left], 1e-2), rtol=1e-6)
    assert not np.allclose(rms_norm(x * mask, gain, 1e-2)[:, left], whole[:, left], rtol=1e-2)  # over all 16


def test_experts_that_are_left_out_are_never_chosen_and_statistics_stay_finite():
    moe = MoeConfig(6, 2, 4, selection_bias=True)
    x = jax.random.normal(jax.random.key(1), (2, 8, 5))
    router, bias = jax.random.normal(jax.random.key(2), (5, 6)), jnp.array([0, 9.0, 0, 0, 9.0, 0])
    allowed = jnp.array([True, False, True, True, False, True])

    def of(allowed):
        return route(moe, router, bias, x, jnp.ones((2, 8), bool), jnp.float32, allowed)

    experts, shares, routing = of(allowed)
    assert not np.isin(experts, (1, 4)).any()
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
    assert all(np.isfinite(value).all() for value in routing.values())
    assert np.isin(of(None)[0], (1, 4)).all()  # whom the bias would choose


def test_rows_of_gates_are_those_of_the_layers_that_have_the_axis():
    c = VARIANTS["moe_mixed"]  # a dense layer, then two mixtures
    shapes = gate_axes(c)
    assert shapes["mlp"] == (1, 40)
    assert shapes["expert_mlp"] == (2, 4, 12)
    assert (layers_with(c, "mlp"), layers_with(c, "experts"), layers_with(c, "heads")) == ((0,), (1, 2), (0, 1, 2))
    mask = {axis: np.arange(np.prod(shape)).reshape(shape) for axis, shape in shapes.items()}
    gates = stacked_gates(c, {"mask": mask})
    assert gates["dense"].keys() == {"layers", "kv_heads", "heads", "mlp"}
    np.testing.assert_array_equal(gates["moe"]["layers"], [1, 2])
    np.testing.assert_array_equal(gates["moe"]["heads"], mask["heads"][1:])
    assert stacked_gates(c, {}) is None


def saved_leaves(capsys, policy=None, masked=True):
    """How many arrays of the shape of stacked o and down the backward pass finds saved, besides the parameters."""
    c = VARIANTS["llama"]
    params, tokens = random_params(c), jnp.zeros((1, 6), jnp.int32)
    mask = {axis: jnp.ones(shape) for axis, shape in gate_axes(c).items()} if masked else {}
    with pytest.MonkeyPatch.context() as patch:
        if policy is not None:
            patch.setattr("jaxpt.models.decoder.not_masked_leaves", policy)
        print_saved_residuals(lambda p, m: forward(c, with_mask(p, m), tokens).sum(), params, mask)
    lines = [line for line in capsys.readouterr().out.splitlines() if "from the argument" not in line]
    return sum(bool(re.match(r"f(loat)?32\[3,(40,24|6,8,24)\]", line)) for line in lines)


def test_the_backward_pass_finds_no_more_copies_of_leaves_than_without_a_mask(capsys):
    assert saved_leaves(capsys) <= saved_leaves(capsys, masked=False)


def test_a_policy_that_saves_all_keeps_masked_copies(capsys):  # the proof above can fail
    everything = lambda config: jax.checkpoint_policies.everything_saveable  # noqa: E731
    assert saved_leaves(capsys, everything) >= saved_leaves(capsys) + 2


def test_gates_of_the_stream_and_of_layers_act_on_each_branchs_last_writer():
    def acting(name, axis):
        specs = block_specs(VARIANTS[name], "dense")
        return {leaf for leaf in specs for f in factors(VARIANTS[name], specs, leaf) if f.axis == axis and not f.left}

    assert acting("llama", "embed") == acting("llama", "layers") == {"o", "down"}
    assert acting("o_bias", "layers") == {"o", "o_bias", "down"}
    assert acting("gemma2", "embed") == acting("olmo2", "layers") == {"attn_post_norm", "mlp_post_norm"}
    offsets = {f.offset for f in factors(VARIANTS["gemma2"], block_specs(VARIANTS["gemma2"], "dense"), "mlp_post_norm")}
    assert offsets == {1}
