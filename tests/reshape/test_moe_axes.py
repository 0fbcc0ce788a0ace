"""The algebra over mixtures of experts: experts and their widths are axes like others, growth along embed included."""

import numpy as np
import pytest

from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import duplicate, pad, permute, select
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import close, logits, random_params, reshaped

NAMES = ["moe", "moe_mixed"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", ["experts", "expert_mlp"])
def test_reordering_experts_or_their_neurons_keeps_the_function(name, axis):
    c = VARIANTS[name]
    p = random_params(c)
    n = c.moe.experts if axis == "experts" else c.moe.mlp
    order = np.stack([np.random.default_rng(l).permutation(n) for l in range(3)])
    close(reshaped(permute(c, axis, order), p), logits(c, p))


def test_leaving_out_a_used_expert_changes_the_function():  # the proof above can fail
    c = VARIANTS["moe"]
    p = random_params(c)
    plan = select(c, "experts", [0, 1, 2, 3])
    assert plan.target.moe.experts == 4
    assert apply(plan, p)["blocks"]["moe"]["router"].shape == (3, 24, 4)
    assert np.abs(reshaped(plan, p) - logits(c, p)).max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_growth_along_embed_keeps_the_function_of_mixtures(name):
    c = VARIANTS[name]
    p = random_params(c)
    close(reshaped(pad(c, "embed", 31), p), logits(c, p), 1e-4)
    close(reshaped(duplicate(c, "embed", np.arange(48) % 24), p), logits(c, p), 1e-4)
