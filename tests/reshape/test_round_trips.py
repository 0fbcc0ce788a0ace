"""Growing, then cutting by what the scores say, returns the model that was grown."""

import jax
import numpy as np
import pytest

from jaxpt.models import flatten
from jaxpt.reshape.apply import apply
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.grow import llama_pro
from jaxpt.reshape.grow_target import widen
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.subclone import subclone_rewrite
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import batches, logits, random_params


@pytest.mark.parametrize(
    ("target", "back"),
    [({"mlp": 57}, {"mlp": 40}), ({"heads": 8}, {"heads": 6}), ({"kv_heads": 3}, {"kv_heads": 2})],
    ids=["mlp", "heads", "kv_heads"],
)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_what_was_padded_scores_nothing_and_its_cut_returns_the_parameters_bit_for_bit(name, target, back):
    c = VARIANTS[name]
    p = random_params(c)
    (rewrite,) = widen(c, target)
    grown = apply(rewrite, p)
    small = subclone_rewrite(rewrite.target, back, weight_scores(InMemory(rewrite.target, grown)))
    assert small.target == c
    jax.tree.map(np.testing.assert_array_equal, apply(small, grown), p)


def pruned(rewrite, c, p):
    """The grown model cut back to its layers by Block Influence."""
    grown = apply(rewrite, p)
    scores = activation_scores(InMemory(rewrite.target, grown), batches(c), data="test")
    back = subclone_rewrite(rewrite.target, {"layers": len(c.layers)}, scores, depth="influence")
    return apply(back, grown)


@pytest.mark.parametrize("name", ["llama", "tied", "moe"])
def test_block_influence_finds_and_removes_the_identity_blocks_of_llama_pro(name):
    c = VARIANTS[name]
    p = random_params(c)
    again = pruned(llama_pro(c, 2), c, p)
    jax.tree.map(np.testing.assert_array_equal, again, p)
    np.testing.assert_array_equal(logits(c, again), logits(c, p))


def test_the_first_layers_of_a_deepened_model_are_not_the_old_ones():  # the proof above can fail
    c = VARIANTS["llama"]
    p = random_params(c)
    rewrite = llama_pro(c, 2)
    first = subclone_rewrite(rewrite.target, {"layers": 3}, selection="uniform")
    again = flatten(apply(first, apply(rewrite, p)))
    assert not np.array_equal(again["blocks/dense/o"], flatten(p)["blocks/dense/o"])
