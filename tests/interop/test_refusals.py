"""What a config.json or a model asks for and the other side has not is refused by name."""

import json

import pytest

from jaxpt.bundles import save_bundle
from jaxpt.errors import JaxptError
from jaxpt.interop import FAMILIES, export_bundle, import_bundle
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.interop.family import read_config
from jaxpt.models import Model, MoeConfig, uniform_layers
from tests.interop.made import FACTS, drawn, edit, hf_directory
from tests.models.tiny import config


@pytest.mark.parametrize(
    ("name", "family", "changes", "message"),
    [
        ("moe", "olmoe", {"clip_qkv": 8.0}, "asks for clip_qkv=8.0"),
        ("moe", "olmoe", {"head_dim": 12}, "head_dim=12 must be hidden_size / num_attention_heads"),
        ("moe", "qwen3_moe", {"num_local_experts": 5}, "asks for num_local_experts=5: num_experts=6 says otherwise"),
        ("moe", "qwen3_moe", {"num_experts": None}, "lacks num_experts"),
        ("moe", "qwen3_moe", {"num_experts_per_tok": 9}, "experts_per_token is 9, there are only 6 experts"),
        ("moe", "qwen3_moe", {"mlp_only_layers": [1]}, "lacks model.layers.1.mlp.down_proj.weight"),
        ("moe", "qwen3_moe", {"num_experts": 7}, "lacks model.layers.0.mlp.experts.6.down_proj.weight"),
        ("moe", "qwen3_moe", {"num_experts": 5}, "does not describe: model.layers.0.mlp.experts.5.down_proj.weight"),
        ("moe", "qwen3_moe", {"n_group": 4}, "asks for n_group=4"),
        ("moe_mixed", "qwen2_moe", {"shared_expert_intermediate_size": 21}, "has shape (20, 24), config.json gives"),
        ("moe_mixed", "qwen2_moe", {"decoder_sparse_step": 2}, "lacks model.layers.2.mlp.down_proj.weight"),
    ],
)
def test_what_a_mixture_asks_for_and_has_not_is_refused_by_name(tmp_path, name, family, changes, message):
    facts = {"qk_norm": "full", "heads": 3, "kv_heads": 3} if family == "olmoe" else FACTS.get(name, {})
    hf = hf_directory(tmp_path, name, family, **facts)
    edit(hf, **changes)
    with pytest.raises(JaxptError) as error:
        import_bundle(hf, tmp_path / "b")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("changes", "family", "message"),
    [
        ({"moe": MoeConfig(6, 2, 16, capacity_factor=1.25)}, "qwen3_moe", "moe.capacity_factor=1.25"),
        ({"moe": MoeConfig(6, 2, 16, selection_bias=True)}, "qwen3_moe", "moe.selection_bias=True"),
        ({"moe": MoeConfig(6, 2, 16, 8)}, "qwen3_moe", "moe.shared_mlp=8"),
        ({"moe": MoeConfig(6, 2, 16, 8)}, "qwen2_moe", "qk_norm='head'"),
        ({"moe": MoeConfig(6, 2, 16, weights="softmax"), "qk_norm": "none"}, "mixtral", "moe.weights='softmax'"),
        ({"moe": None, "layers": uniform_layers(3)}, "olmoe", "the model has no model.moe"),
    ],
)
def test_a_mixture_that_a_family_cannot_say_is_refused_naming_the_fact(tmp_path, changes, family, message):
    with pytest.raises(JaxptError) as error:
        hf_directory(tmp_path, "moe", family, **changes)
    assert message in str(error.value)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen4"}, "model_type 'qwen4' is not read (did you mean 'qwen"),
        ({"model_type": "mixtrol"}, "model_type 'mixtrol' is not read (did you mean 'mixtral'?)"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "architecture LlamaForSequenceClassification is not read",
        ),
        ({"hidden_act": "relu2"}, "asks for hidden_act='relu2'"),
        ({"mlp_bias": True}, "asks for mlp_bias=True"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "asks for rope type 'longrope'"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "asks for partial_rotary_factor=0.5",
        ),
        ({"quantization_config": {"bits": 4}}, "asks for quantization_config"),
        ({"sliding_window": 64}, "asks for sliding_window=64"),
        ({"num_local_experts": 8}, "asks for num_local_experts=8"),
        ({"hidden_size": 25, "head_dim": 8}, "embed_tokens.weight has shape (61, 24), config.json gives (61, 25)"),
        ({"num_hidden_layers": 4}, "lacks model.layers.3."),
        ({"num_hidden_layers": 2}, "holds tensors the config does not describe: model.layers.2."),
        ({"attention_bias": True}, "lacks model.layers.0.self_attn.k_proj.bias"),
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
        ({"num_attention_heads": 0}, "asks for num_attention_heads=0: it must be at least 1"),
        ({"hidden_size": "24"}, "asks for hidden_size='24': it must be a whole number"),
        ({"rms_norm_eps": "1e-5"}, "asks for rms_norm_eps='1e-5': it must be a number"),
        ({"tie_word_embeddings": 1}, "asks for tie_word_embeddings=1: it must be true or false"),
        ({"hidden_act": ["silu"]}, "asks for hidden_act=['silu']"),
        ({"is_causal": False}, "asks for is_causal=False"),
        ({"scale_by_depth": True}, "asks for scale_by_depth=True: jaxpt does not know this key"),
        ({"n_shared_experts": 1}, "asks for n_shared_experts=1: jaxpt does not know this key"),
        ({"partial_rotary_factor": 0}, "asks for partial_rotary_factor=0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_parameters says otherwise"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope lacks factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 0}}, "asks for factor=0: it must be above 0"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "rope lacks low_freq_factor"),
        ({"rope_parameters": {"factor": 4.0}}, "rope 'default' with factor=4.0 is not implemented"),
        ({"rope_parameters": ["yarn"]}, "asks for rope_parameters=['yarn']: it must be a dictionary"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "a rope per layer type is not read"),
    ],
)
def test_what_a_config_asks_for_and_jaxpt_has_not_is_refused_by_name(tmp_path, changes, message):
    hf = hf_directory(tmp_path)
    edit(hf, **changes)
    with pytest.raises(JaxptError) as error:
        import_bundle(hf, tmp_path / "b")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_layer_types_that_contradict_the_config_are_refused(tmp_path):
    hf = hf_directory(tmp_path, "qwen2")
    for kinds, message in (
        (["full_attention"] * 2, "it must name a kind for each of num_hidden_layers=3"),
        (["chunked_attention"] * 3, "asks for 'chunked_attention' in layer_types"),
        (["sliding_attention"] * 3, "asks for 'sliding_attention' in layer_types (sliding_window None)"),
    ):
        edit(hf, layer_types=kinds)
        with pytest.raises(JaxptError) as error:
            HuggingFaceCheckpoint(hf)
        assert message in str(error.value)


def test_a_key_left_out_means_what_the_family_means_by_it(tmp_path):
    values = json.loads((hf_directory(tmp_path, "qwen2") / "config.json").read_text())
    window = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    kept = {k: v for k, v in values.items() if k.split("_")[0] not in ("sliding", "use", "max", "layer")} | window
    for given, window in ((kept, 4096), ({**kept, "sliding_window": None}, None)):
        read = read_config(FAMILIES["mistral"], given, "config.json")
        assert {layer.window for layer in read.layers} == {window}
    del kept["num_key_value_heads"]
    with pytest.raises(JaxptError, match=r"config.json: model.heads is 6, not a multiple of model.kv_heads \(8\)"):
        read_config(FAMILIES["mistral"], kept, "config.json")


def test_a_model_that_no_family_can_say_is_refused_naming_the_fact(tmp_path):
    c = config(norm_cast_order="gain_before_cast")
    save_bundle(Model(c, drawn(c)), tmp_path / "b")
    with pytest.raises(JaxptError, match=r"no family .*; llama, mistral, .*: norm_cast_order='gain_before_cast'"):
        export_bundle(tmp_path / "b", tmp_path / "hf")
    with pytest.raises(JaxptError, match="--family=lama is unknown"):
        export_bundle(tmp_path / "b", tmp_path / "hf", "lama")
    assert not (tmp_path / "hf").exists()
