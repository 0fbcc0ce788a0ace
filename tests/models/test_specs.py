"""The axis table, the config that it follows from, and the module that computes with it."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxpt.errors import JaxptError
from jaxpt.models import (
    LayerSpec,
    ModelConfig,
    MoeConfig,
    RopeConfig,
    flatten,
    init_params,
    param_specs,
    unflatten,
    uniform_layers,
)
from jaxpt.models.decoder import Decoder
from jaxpt.models.presets import PRESETS, preset
from jaxpt.models.size import flops_per_token, param_count
from tests.models.tiny import VARIANTS, config


@pytest.mark.parametrize("name", VARIANTS)
def test_specs_equal_the_abstract_nnx_module(name):
    c = VARIANTS[name]
    module = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: Decoder(c)))[1])
    shapes = {path: leaf.shape for path, leaf in flatten(module).items()}
    assert shapes == {path: spec.shape for path, spec in flatten(param_specs(c)).items()}


def test_module_and_functional_init_draw_the_same_values():
    c = config(qkv_bias=True)
    module = nnx.to_pure_dict(nnx.split(Decoder(c, 3))[1])
    for a, b in zip(jax.tree.leaves(module), jax.tree.leaves(init_params(c, 3)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_every_axis_name_has_the_length_the_config_says():
    c = VARIANTS["olmo2"]
    length = {"vocab": 61, "embed": 24, "heads": 6, "kv_heads": 2, "head_dim": 8, "mlp": 40, "layers": 3}
    for path, spec in flatten(param_specs(c)).items():
        assert spec.shape == tuple(length[a] for a in spec.axes), path
        assert len(set(spec.axes)) == len(spec.axes), path


def test_decay_spares_gains_and_biases_and_nothing_else():
    spared = {p for p, s in flatten(param_specs(VARIANTS["o_bias"])).items() if not s.decay}
    block = ("attn_norm", "mlp_norm", "q_bias", "k_bias", "v_bias", "o_bias")
    assert spared == {"final_norm", *(f"blocks/dense/{n}" for n in block)}


def test_initial_deviation_is_what_the_table_says():
    c = config(embed=256, mlp=512, vocab_size=500)
    leaves, specs = flatten(init_params(c, 0)), flatten(param_specs(c))
    for path in ("embed/table", "blocks/dense/q", "blocks/dense/down"):
        n = leaves[path].size
        assert abs(float(leaves[path].std()) / specs[path].init_std - 1) < 4 / np.sqrt(2 * n), path


def test_layers_are_drawn_apart_and_seeds_differ():
    a, b = (init_params(config(), s)["blocks"]["dense"]["q"] for s in (0, 1))
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a, b)


def test_config_survives_json_with_every_field():
    import json

    c = VARIANTS["local_rope"].replace(
        rope=RopeConfig("yarn", 1e6, 4.0, 32, inv_freq=(1.0, 0.5, 0.25, 0.125)),
        attention_softcap=3.0,
        tie_embeddings=True,
    )
    assert ModelConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "model.heads is 5, not a multiple of model.kv_heads"),
        ({"head_dim": 7}, "model.head_dim is 7; RoPE"),
        ({"activation": "sillu"}, "did you mean 'silu'"),
        ({"embed": 0}, "model.embed is 0"),
        ({"layers": ()}, "model.layers is empty"),
        ({"layers": (LayerSpec("window"),)}, "does not go with window=None"),
        ({"layers": (LayerSpec(rope="local"),)}, "model.rope_local is not set"),
        ({"rope": RopeConfig(inv_freq=(1.0,))}, "inv_freq has 1 entries, head_dim 8 needs 4"),
        ({"rope": RopeConfig("llama3")}, "original_max_positions is needed"),
    ],
)
def test_contradictions_in_a_config_are_named(change, message):
    with pytest.raises(JaxptError, match=message.replace("[", r"\[")):
        config(**change)


def test_unknown_key_names_its_nearest_neighbour():
    with pytest.raises(JaxptError, match=r"model\.kv_head is not a key \(did you mean 'kv_heads'\?\)"):
        ModelConfig.from_dict({**config().to_dict(), "kv_head": 2})
    with pytest.raises(JaxptError, match=r"did you mean 'qwen2.5-7b'"):
        preset("qwen2.5-7")


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama3-8b", 8.030261248),
        ("llama3.2-1b", 1.2358144),
        ("llama3.1-405b", 405.853388800),
        ("qwen2.5-0.5b", 0.494032768),
        ("qwen2.5-14b", 14.770033664),
        ("mixtral-8x7b", 46.702792704),
        ("olmoe-1b-7b", 6.919161856),
        ("qwen1.5-moe-a2.7b", 14.315784192),
        ("qwen3-30b-a3b", 30.532122624),
    ],
)
def test_presets_have_the_published_parameter_counts(name, billions):
    assert param_count(PRESETS[name]) == round(billions * 1e9)


def test_queries_and_keys_of_mixtures_are_normed_unless_said_otherwise():
    mixture = {"layers": uniform_layers(2, ffn="moe"), "moe": MoeConfig(4, 2, 8)}
    assert config().qk_norm == "none"
    assert config(**mixture).qk_norm == "head"
    assert "blocks/moe/q_norm" in flatten(param_specs(config(**mixture)))
    assert config(**mixture, qk_norm="none").qk_norm == "none"
    assert config().replace(**mixture).qk_norm == "none"  # a dense model made a mixture keeps its function
    assert ModelConfig.from_dict(config(**mixture, qk_norm="none").to_dict()).qk_norm == "none"


def test_flops_per_token_agree_with_the_closed_form():
    c, s = config(), 32
    matmul = sum(x.size for p, x in flatten(param_specs(c)).items() if x.fan_in_axes)
    attention = 3 * 2 * 2 * c.heads * c.head_dim * (s + 1) / 2  # 3 layers, q·k and weights·v, causal mean of keys
    assert flops_per_token(c, s, backward=False) == 2 * matmul + attention
    assert flops_per_token(c, s) == 3 * flops_per_token(c, s, backward=False)


def test_flops_of_a_window_count_the_keys_it_sees():
    c = config(layers=(LayerSpec("window", 4),))
    full = config(layers=(LayerSpec(),))
    seen = sum(min(i + 1, 4) for i in range(32)) / 32
    gap = flops_per_token(full, 32, backward=False) - flops_per_token(c, 32, backward=False)
    assert gap == pytest.approx(4 * c.heads * c.head_dim * (33 / 2 - seen))


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
