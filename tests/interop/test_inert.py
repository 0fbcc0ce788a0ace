"""Keys of a config.json that change nothing are taken along and written again; unknown ones stop an import."""

import json

import pytest

from jaxpt import cli
from jaxpt.bundles import open_bundle
from jaxpt.errors import JaxptError
from jaxpt.interop import export_bundle, import_bundle
from jaxpt.interop.inert import BECAUSE, INERT
from jaxpt.models import Model
from jaxpt.reshape.apply import reshaped
from jaxpt.reshape.depth import drop_layers
from tests.interop.made import edit, hf_directory

MET = {
    "is_llama_config": True,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "auto_map": {"AutoConfig": "configuration_mine.MyConfig"},
    "unsloth_version": "2025.3.19",
    "unsloth_fixed": True,
    "max_sequence_length": 8192,
    "max_seq_len": 8192,
    "model_max_length": 8192,
    "neftune_noise_alpha": 5.0,
    "_commit_hash": "4e20de36",
    "_attn_implementation_autoset": True,
    "initializer_range": 1,  # which transformers refuses as it stands
    "pad_token_id": 1000,  # likewise, outside the vocabulary
}
STOPS = {
    "rope_interleaved": True,
    "use_qk_norm": True,
    "qk_layernorm": True,
    "use_mrope": True,
    "activation": "swiglu",
    "embedding_multiplier": 12.0,
    "scale_depth": 1.4,
    "quantization": {"bits": 4, "group_size": 64},
    "num_nextn_predict_layers": 1,
    "vision_config": {"depth": 3},
}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_inert_keys_pass_through_an_import_and_an_export(tmp_path):
    hf = hf_directory(tmp_path)
    edit(hf, **MET)
    bundle = import_bundle(hf, tmp_path / "b")
    assert config_of(export_bundle(bundle, tmp_path / "again")) == {
        **config_of(hf),
        "initializer_range": 1.0,
        "pad_token_id": None,
    }


def cut(bundle):
    b = open_bundle(bundle)
    return reshaped(Model(b.config, b.params(), None, tuple(b.lineage)), drop_layers(b.config, [1]))


def test_inert_keys_go_with_a_reshaped_model_and_those_of_a_family_stay_with_it(tmp_path):
    hf = hf_directory(tmp_path)
    edit(hf, **MET)
    made = cut(import_bundle(hf, tmp_path / "b"))
    same = config_of(export_bundle(made, tmp_path / "same"))
    assert {k: v for k, v in same.items() if k in MET} == {**MET, "initializer_range": 1.0, "pad_token_id": None}
    other = config_of(export_bundle(made, tmp_path / "other", "mistral"))
    assert MET.keys() - other.keys() == {"auto_map", "is_llama_config"}
    assert (other["model_type"], other["architectures"]) == ("mistral", ["MistralForCausalLM"])


@pytest.mark.parametrize("key", STOPS)
def test_a_key_that_may_change_the_forward_pass_stops_and_names_the_way_out(tmp_path, key):
    hf = hf_directory(tmp_path)
    edit(hf, **{key: STOPS[key]})
    with pytest.raises(JaxptError, match=rf"asks for {key}=.*jaxpt import --inert={key} takes it along"):
        import_bundle(hf, tmp_path / "b")


def test_a_user_s_word_lets_a_key_in_and_it_goes_out_again(tmp_path, capsys):
    hf = hf_directory(tmp_path)
    edit(hf, activation="swiglu", mine=[1, 2])
    argv = ["import", f"--from={hf}", f"--to={tmp_path / 'b'}"]
    assert cli.main([*argv, "--inert=activation"]) == 1
    assert "asks for mine=[1, 2]" in capsys.readouterr().err
    assert cli.main([*argv, "--inert=activation", "--inert=mine"]) == 0
    assert open_bundle(tmp_path / "b").lineage[0]["options"]["inert"] == ["activation", "mine"]
    assert config_of(export_bundle(tmp_path / "b", tmp_path / "again")) == config_of(hf)
    reshaped_out = config_of(export_bundle(cut(tmp_path / "b"), tmp_path / "cut"))
    assert (reshaped_out["activation"], reshaped_out["mine"]) == ("swiglu", [1, 2])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("activatoin", r"--inert=activatoin: .*config.json has no such key \(did you mean 'activation'\?\)"),
        ("hidden_size", "--inert=hidden_size: .* and the model is made from it; leave the flag out"),
    ],
)
def test_a_user_s_word_about_another_key_is_refused(tmp_path, key, message):
    hf = hf_directory(tmp_path)
    edit(hf, activation="swiglu")
    with pytest.raises(JaxptError, match=message):
        import_bundle(hf, tmp_path / "b", inert=[key])


def test_every_inert_key_is_listed_once_with_its_reason():
    listed = [key for keys in BECAUSE.values() for key in keys]
    assert len(listed) == len(set(listed)) == len(INERT)
    assert not INERT.keys() & STOPS.keys()
