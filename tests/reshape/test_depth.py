"""Depth: identity layers are found and removed exactly, the norm rescaling does what it says, choices are named."""

import jax
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import LayerSpec, flatten, unflatten, uniform_layers
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import rewrite_axes
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.depth import drop_and_rescale, drop_layers, kept_layers
from jaxpt.reshape.prune_depth import prune_depth
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.subclone import subclone_rewrite
from jaxpt.reshape.walk import loss
from tests.models.tiny import DENSE, VARIANTS, config
from tests.reshape.proofs import batches, close, logits, random_params, reshaped


def with_identity_layer(c, p, at):
    """Inserts a copy of layer `at` whose branches add nothing, behind it (the growth of LLaMA Pro)."""
    count = len(c.layers)
    grown = rewrite_axes(c, {}, layers=[*range(at + 1), at, *range(at + 1, count)])
    out = flatten(apply(grown, p))
    for path, spec in grown.specs.items():
        if spec.stacked and spec.residual == "writes" and (spec.gain or c.norm_position == "pre"):
            out[path] = out[path].copy()
            out[path][at + 1] = -spec.gain_offset
    return grown.target, unflatten(out)


@pytest.mark.parametrize("name", ["llama", "tied", "qwen3", "olmo2"])
def test_a_layer_without_influence_is_found_and_its_removal_restores_the_logits_exactly(name):
    c = VARIANTS[name]
    p = random_params(c)
    grown, q = with_identity_layer(c, p, 1)
    scores = activation_scores(InMemory(grown, q), batches(c), data="test", removal=True)
    assert scores.get("layers").argmin() == 2
    assert abs(scores.get("layers")[2]) < 1e-6
    assert abs(scores.get("layers_loss")[2]) < 1e-5
    rewrite = subclone_rewrite(grown, {"layers": len(c.layers)}, scores, depth="influence")
    jax.tree.map(np.testing.assert_array_equal, apply(rewrite, q), p)
    np.testing.assert_array_equal(logits(c, apply(rewrite, q)), logits(c, p))
    assert not np.allclose(reshaped(drop_layers(grown, [1]), q), logits(c, p), atol=1e-2)  # it can fail


@pytest.mark.parametrize("name", [n for n in DENSE if n != "olmo2"])
def test_rescaling_scales_the_stream_behind_the_gap_and_nothing_before_it(name):
    """Dropping an identity layer with growth 1.7 makes the stream 1.7 times itself there: an exact statement."""
    from jaxpt.reshape.walk import walk

    c = VARIANTS[name].replace(norm_eps=1e-12)
    p = random_params(c)
    grown, q = with_identity_layer(c, p, len(c.layers) - 1)
    rewrite = drop_and_rescale(grown, [len(c.layers)], [1.7])
    b = batches(c, 1)
    after = walk(InMemory(rewrite.target, apply(rewrite, q)), b)[0]
    before = walk(InMemory(grown, q), b)[0]
    np.testing.assert_allclose(after, 1.7 * np.asarray(before), rtol=2e-4, atol=2e-4 * float(abs(before).max()))
    close(reshaped(rewrite, q), logits(c, p), 1e-4)  # the final norm does not see it, a tied head neither


def test_rescaling_refuses_models_whose_branches_see_the_streams_norm():
    with pytest.raises(JaxptError, match="norm_position='post'"):
        drop_and_rescale(VARIANTS["olmo2"], [1], [1.5])


def test_iterated_pruning_scores_again_after_each_layer():
    c = config(layers=uniform_layers(5))
    p = random_params(c)
    b = batches(c, 1)
    rewrites = prune_depth(InMemory(c, p), 3, b, by="loss", rescale=False)
    assert [x.target.layers for x in rewrites] == [c.layers[:4], c.layers[:3]]
    drops = [x.entry["options"]["drop"] for x in rewrites]
    left = InMemory(c, p)
    for rewrite in rewrites:  # each drop is the best single one at its time
        losses = [
            loss(InMemory(d.target, apply(d, unflatten(left.leaves))), b)
            for d in (drop_layers(left.config, [l]) for l in range(len(left.config.layers)))
        ]
        assert rewrite.entry["options"]["drop"] == [int(np.argmin(losses))]
        left = InMemory(rewrite.target, apply(rewrite, unflatten(left.leaves)))
    assert sum(x.entry["tokens"] for x in rewrites) == 2 * 24
    assert all(x.entry["flops"] > 0 for x in rewrites), drops


def test_which_layers_stay():
    assert kept_layers(8, 4, "middle", None).tolist() == [0, 1, 6, 7]
    assert kept_layers(8, 3, "middle", None).tolist() == [0, 1, 7]
    assert kept_layers(8, 3, "first", None).tolist() == [0, 1, 2]
    assert kept_layers(9, 3, "even", None).tolist() == [0, 4, 8]
    with pytest.raises(JaxptError, match="did you mean 'middle'"):
        kept_layers(8, 4, "midle", None)
    with pytest.raises(JaxptError, match="needs scores of layers"):
        kept_layers(8, 4, "influence", None)


def test_layers_take_their_window_and_rope_along():
    c = config(layers=(LayerSpec("window", 4), LayerSpec(), LayerSpec(rope="none")))
    rewrite = drop_layers(c, [1])
    assert rewrite.target.layers == (c.layers[0], c.layers[2])
    with pytest.raises(JaxptError, match="names layer 3"):
        drop_layers(c, [3])
