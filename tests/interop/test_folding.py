"""A scale that a family has no key for goes into weights: the model that comes back computes the same."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.interop import FAMILIES, export_bundle, load_hf
from jaxpt.interop.folding import FOLDS, form_of
from jaxpt.models import LayerSpec, Model, MoeConfig, flatten, forward, unflatten, uniform_layers
from tests.interop.made import drawn, edit
from tests.interop.opened import OPENED, open_by_transformers
from tests.models.tiny import VARIANTS, config

TOKENS = jnp.array(np.random.default_rng(0).integers(0, 61, (1, 9)))
GEMMA2 = VARIANTS["gemma2"]
SHARED = config(layers=uniform_layers(3, ffn="moe"), moe=MoeConfig(4, 2, 12, 8), qk_norm="none")
CASES = {
    "embed_scale": (config(embed_scale=3.0), "llama"),
    "embed_scale of a tied model": (config(embed_scale=3.0, tie_embeddings=True), "llama"),
    "embed_scale of another width": (GEMMA2.replace(embed_scale=32**0.5), "gemma2"),
    "logit_scale": (config(logit_scale=0.25), "llama"),
    "logit_scale of a tied model": (GEMMA2.replace(logit_scale=0.25), "gemma2"),
    "residual_scale": (config(residual_scale=0.7, qkv_bias=True, o_bias=True), "llama"),
    "residual_scale behind norms": (GEMMA2.replace(residual_scale=0.7), "gemma2"),
    "residual_scale of experts": (SHARED.replace(residual_scale=0.7), "qwen2_moe"),
    "attention_scale": (config(attention_scale=0.5), "llama"),
    "attention_scale beside biases": (VARIANTS["qwen2"].replace(attention_scale=0.5), "qwen2"),
    "attention_scale behind a norm": (VARIANTS["qwen3"].replace(attention_scale=0.5), "qwen3"),
    "attention_scale of no whole number": (GEMMA2.replace(attention_scale=0.3), "gemma2"),
    "qk_norm_eps": (VARIANTS["qwen3"].replace(norm_eps=1e-2), "qwen3"),
    "qk_norm_eps across heads": (
        VARIANTS["olmo2"].replace(qk_norm_eps=0.3, norm_cast_order="gain_before_cast"),
        "olmo2",
    ),
    "moe.route_scale": (
        VARIANTS["moe"].replace(moe=MoeConfig(6, 2, 16, route_scale=1.5)),
        "qwen3_moe",
    ),
    "moe.shared_score": (SHARED, "qwen2_moe"),
    "moe.shared_mlp": (SHARED.replace(moe=MoeConfig(4, 2, 12)), "qwen2_moe"),
}


def computed(model):
    with jax.disable_jit():
        return np.asarray(forward(model.config, model.params, TOKENS))


@pytest.mark.parametrize("name", CASES)
def test_a_folded_scale_keeps_the_function(name, tmp_path):
    c, family = CASES[name]
    fact = name.split()[0]
    assert any(folded.startswith(f"{fact}=") for folded in form_of(FAMILIES[family], c).folded)
    model = Model(c, drawn(c))
    again = load_hf(export_bundle(model, tmp_path / "hf", family))
    assert again.config != c
    want = computed(model)
    np.testing.assert_allclose(computed(again), want, rtol=0, atol=1e-5 * np.abs(want).max())
    if fact != "moe.shared_mlp":  # which adds zeros and changes nothing else: as they were, the weights would differ
        unfolded = Model(again.config, unflatten({**flatten(again.params), **flatten(model.params)}))
        assert np.abs(computed(unfolded) - want).max() > 1e-3 * np.abs(want).max()


def test_every_fold_is_tried():
    assert {name.split()[0] for name in CASES} == FOLDS.keys()


def test_a_power_of_two_is_folded_without_a_rounding(tmp_path):
    c = config(embed_scale=4.0, logit_scale=0.5)
    params = jax.tree.map(lambda x: x.astype("bfloat16"), drawn(c))
    again = flatten(load_hf(export_bundle(Model(c, params), tmp_path / "hf", "llama")).params)
    before = flatten(params)
    assert again["embed/table"].dtype == before["embed/table"].dtype
    np.testing.assert_array_equal(again["embed/table"].astype("f4"), 4 * before["embed/table"].astype("f4"))
    np.testing.assert_array_equal(again["head"].astype("f4"), before["head"].astype("f4") / 2)


def test_an_eps_of_zero_cannot_be_folded():
    with pytest.raises(JaxptError, match=r"qwen3 cannot express qk_norm_eps=0.0"):
        form_of(FAMILIES["qwen3"], VARIANTS["qwen3"].replace(qk_norm_eps=0.0))


needs_transformers = pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("torch", "transformers")),
    reason="needs torch and transformers: install jaxpt[parity]",
)


def shapes():
    """Configs of every family with lengths drawn at random, most of which some family's readers refuse."""
    rng = np.random.default_rng(0)
    for _ in range(9):
        heads, kv = int(rng.integers(1, 5)), int(rng.integers(1, 3))
        lengths = {"heads": heads * kv, "kv_heads": kv, "head_dim": int(rng.integers(1, 5)) * 2}
        lengths |= {"embed": int(rng.choice([*range(1, 40), heads * kv * lengths["head_dim"]]))}
        lengths |= {"norm_eps": [0, 1, 1e-6][rng.integers(3)], "vocab_size": int(rng.integers(3, 9))}
        for name in ("llama", "qwen2", "qwen3", "olmo2", "gemma2", "moe", "moe_mixed"):
            c = VARIANTS[name]
            moe = c.moe and dataclasses.replace(c.moe, weights="renormalised", selection_bias=False)
            yield c.replace(**lengths, moe=moe)


@needs_transformers
@pytest.mark.parity
def test_what_a_family_takes_transformers_builds_and_what_a_limit_refuses_it_refuses():
    """Lengths that nobody chose: a config that goes out is built and run."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def built(values):
        config = AutoConfig.for_model(**{k: v for k, v in values.items() if k != "architectures"})
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")
        with torch.no_grad():
            model(input_ids=torch.zeros((1, 3), dtype=torch.long))

    taken, refused = 0, 0
    for c in shapes():
        for kind, family in FAMILIES.items():
            try:
                values = form_of(family, c).values
            except JaxptError:
                if family.limits and not _limits_hold(family, c):
                    values = _without_limits(family, c)
                    if values is not None:
                        refused += 1
                        with pytest.raises(Exception, match=r"multiple|size"):
                            built(values)
                continue
            taken += 1
            try:
                built(values)
            except Exception as error:
                raise AssertionError(f"{kind} takes {c}, transformers does not: {error}") from error
    assert taken > 35
    assert refused > 6


def _limits_hold(family, c):
    try:
        for limit in family.limits:
            limit(c)
    except JaxptError:
        return False
    return True


def _without_limits(family, c):
    try:
        return form_of(dataclasses.replace(family, limits=()), c).values
    except JaxptError:
        return None


@needs_transformers
@pytest.mark.parity
def test_an_export_that_transformers_cannot_open_fails_the_test_that_made_it(tmp_path, monkeypatch):
    """The fixture of `tests/conftest.py` sees every export; without the limit this one would go out."""
    count = len(OPENED)
    export_bundle(Model(config(), drawn(config())), tmp_path / "good", "llama")
    assert len(OPENED) == count + 1
    c = config(embed=25)
    monkeypatch.setitem(FAMILIES, "llama", dataclasses.replace(FAMILIES["llama"], limits=()))
    with pytest.raises(Exception, match="not a multiple of the number of attention"):
        export_bundle(Model(c, drawn(c)), tmp_path / "bad", "llama")
    edit(tmp_path / "good", num_hidden_layers=4)
    with pytest.raises(AssertionError, match="missing_keys"):
        open_by_transformers(tmp_path / "good")


def test_layers_of_unlike_kinds_are_named():
    mixed = config(layers=(LayerSpec(), LayerSpec("window", 5)))
    with pytest.raises(JaxptError, match=r"layers\[1\].window=5 \(only None there\)"):
        form_of(FAMILIES["llama"], mixed)
