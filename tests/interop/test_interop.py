"""Import and export without the foreign library: the real tiny model, sharded files, meshes, and bad input."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxpt import api, cli
from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.errors import JaxptError
from jaxpt.evaluation.generation import Sampling, generate
from jaxpt.interop import export_bundle, import_bundle, load_hf
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.models import Model, MoeConfig, flatten, forward, param_specs, uniform_layers
from jaxpt.reshape import transform
from jaxpt.reshape.upcycle import Upcycling, upcycle
from jaxpt.sharding import make_mesh, param_shardings
from tests.models.tiny import VARIANTS, config, random_params

# what the family fixes and the variants of other tests do not have
FACTS = {
    "qwen3": {"qk_norm_eps": None},
    "olmo2": {"norm_cast_order": "gain_before_cast"},
    "moe_mixed": {"moe": MoeConfig(4, 2, 12, 20, True, "softmax"), "qk_norm": "none"},
}
FAMILY_OF = {"llama": "llama", "tied": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "olmo2": "olmo2"}
FAMILY_OF |= {"moe": "qwen3_moe", "moe_mixed": "qwen2_moe"}


def hf_directory(folder, name="llama", family=None, **changes):
    """A Hugging Face directory written by our own export from random parameters."""
    c = VARIANTS[name].replace(**changes)
    save_bundle(Model(c, random_params(c)), folder / "made")
    export_bundle(folder / "made", folder / "hf", family or FAMILY_OF[name])
    shutil.rmtree(folder / "made")
    return folder / "hf"


def test_the_real_tiny_model_continues_as_its_golden_outputs(shared, tmp_path):
    golden = json.loads((shared / "data/stories260K/golden_greedy.json").read_text())
    import_bundle(shared / "data/stories260K/hf", tmp_path / "b")
    model = api.load(tmp_path / "b")
    for case in golden["cases"]:
        prompt, want = case["prompt_ids"], case["token_ids"][len(case["prompt_ids"]) :]
        logits = forward(model.config, model.params, jnp.array([prompt]))[0, -1]
        assert np.abs(np.asarray(logits) - np.array(case["logits_after_prompt"])).max() < 1e-3
        assert generate(model.config, model.params, [prompt], len(want), sampling=Sampling(0)) == [want]
        assert model.tokenizer.encode(case["prompt"], bos=True) == prompt


def test_other_weights_beside_model_safetensors_are_not_read(tmp_path):
    hf = hf_directory(tmp_path)
    save_file({"consolidated.weight": np.zeros(3, np.float32)}, hf / "consolidated.safetensors")
    assert list(HuggingFaceCheckpoint(hf).files) == ["model.safetensors"]


def test_generate_and_export_the_real_tiny_model_by_command(shared, tmp_path, capsys):
    hf = shared / "data/stories260K/hf"
    assert cli.main(["import", f"--from={hf}", f"--to={tmp_path / 'b'}"]) == 0
    assert cli.main(["export", f"--from={tmp_path / 'b'}", f"--to={tmp_path / 'hf'}"]) == 0
    assert json.loads((tmp_path / "hf/config.json").read_text()) == json.loads((hf / "config.json").read_text())
    before, after = (load_file(d / "model.safetensors") for d in (hf, tmp_path / "hf"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
    capsys.readouterr()
    assert cli.main(["generate", f"--model={hf}", "--prompt=Once upon", "--temperature=0", "--max_new_tokens=20"]) == 0
    assert capsys.readouterr().out.startswith("Once upon a time")


def test_lineage_names_the_files_and_their_digests(shared, tmp_path):
    import hashlib

    hf = shared / "data/stories260K/hf"
    (entry,) = open_bundle(import_bundle(hf, tmp_path / "b")).lineage
    assert entry["op"] == "import"
    assert entry["files"]["model.safetensors"] == hashlib.sha256((hf / "model.safetensors").read_bytes()).hexdigest()
    assert entry["options"]["family"] == "llama"


@pytest.mark.parametrize("name", FAMILY_OF)
def test_a_model_made_here_goes_out_and_comes_back(tmp_path, name):
    c = VARIANTS[name].replace(**FACTS.get(name, {}))
    params = random_params(c)
    back = load_hf(hf_directory(tmp_path, name, None, **FACTS.get(name, {})))
    assert back.config == c
    for path, leaf in flatten(back.params).items():
        np.testing.assert_array_equal(leaf, flatten(params)[path], err_msg=path)


def test_importing_onto_a_mesh_reads_each_device_its_part(tmp_path):
    hf = hf_directory(tmp_path, vocab_size=64, heads=4)
    model = load_hf(hf)
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    where = param_shardings(param_specs(model.config), mesh)
    sharded = load_hf(hf, shardings=where)
    for path, leaf in flatten(sharded.params).items():
        assert leaf.sharding == flatten(where)[path]
        np.testing.assert_array_equal(leaf, flatten(model.params)[path], err_msg=path)


def test_importing_a_mixture_onto_a_mesh_reads_each_device_its_experts(tmp_path):
    moe = MoeConfig(8, 2, 16)
    hf = hf_directory(tmp_path, "moe", vocab_size=64, moe=moe, layers=uniform_layers(2, ffn="moe"))
    whole = load_hf(hf)
    where = param_shardings(param_specs(whole.config), make_mesh({"fsdp": 2, "expert": 4}))
    sharded = load_hf(hf, shardings=where)
    gate = sharded.params["blocks"]["moe"]["expert_gate"]
    assert {s.data.shape for s in gate.addressable_shards} == {(2, 2, 12, 16)}
    for path, leaf in flatten(sharded.params).items():
        np.testing.assert_array_equal(leaf, flatten(whole.params)[path], err_msg=path)


def test_an_upcycled_model_goes_out_as_the_family_that_can_say_it(tmp_path, capsys):
    import_bundle(hf_directory(tmp_path), tmp_path / "dense")
    model = open_bundle(tmp_path / "dense").model()
    grown = transform(model, upcycle(model.config, Upcycling(4, 2, keep=1.0)))
    save_bundle(grown, tmp_path / "b")
    assert cli.main(["export", f"--from={tmp_path / 'b'}", f"--to={tmp_path / 'again'}"]) == 0
    assert "(mixtral)" in capsys.readouterr().out
    back = load_hf(tmp_path / "again")
    assert back.config.moe == grown.config.moe
    tokens = jnp.arange(12).reshape(1, -1)
    got, want = (forward(m.config, m.params, tokens) for m in (back, grown))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("name", "family", "changes", "told"),
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
def test_what_a_mixture_asks_for_and_has_not_is_refused_by_name(tmp_path, name, family, changes, told):
    facts = {"qk_norm": "full", "heads": 3, "kv_heads": 3} if family == "olmoe" else FACTS.get(name, {})
    hf = hf_directory(tmp_path, name, family, **facts)
    edit(hf, **changes)
    with pytest.raises(JaxptError) as error:
        import_bundle(hf, tmp_path / "b")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("changes", "family", "told"),
    [
        ({"moe": MoeConfig(6, 2, 16, capacity_factor=1.25)}, "qwen3_moe", "moe.capacity_factor=1.25"),
        ({"moe": MoeConfig(6, 2, 16, selection_bias=True)}, "qwen3_moe", "moe.selection_bias=True"),
        ({"moe": MoeConfig(6, 2, 16, 8)}, "qwen3_moe", "moe.shared_mlp=8"),
        ({"moe": MoeConfig(6, 2, 16, 8)}, "qwen2_moe", "qk_norm='head'"),
        ({"moe": MoeConfig(6, 2, 16, 8), "qk_norm": "none"}, "qwen2_moe", "moe.shared_score=False"),
        ({"moe": MoeConfig(6, 2, 16, weights="softmax"), "qk_norm": "none"}, "mixtral", "moe.weights='softmax'"),
        ({"moe": None, "layers": uniform_layers(3)}, "olmoe", "the model has no model.moe"),
    ],
)
def test_a_mixture_that_a_family_cannot_say_is_refused_naming_the_fact(tmp_path, changes, family, told):
    with pytest.raises(JaxptError) as error:
        hf_directory(tmp_path, "moe", family, **changes)
    assert told in str(error.value)
    assert not (tmp_path / "hf").exists()


def test_sharded_files_are_read_and_written(tmp_path):
    hf = hf_directory(tmp_path)
    import_bundle(hf, tmp_path / "b")
    export_bundle(tmp_path / "b", tmp_path / "many", shard_bytes=9_000)
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 3
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(
            load_file(tmp_path / "many" / file)[name], load_file(hf / "model.safetensors")[name]
        )
    again = load_hf(tmp_path / "many")
    np.testing.assert_array_equal(again.params["final_norm"], load_hf(hf).params["final_norm"])
    victim = sorted(files)[1]
    (tmp_path / "many" / victim).unlink()
    with pytest.raises(JaxptError, match=f"lacks the shard {victim}"):
        load_hf(tmp_path / "many")


def edit(hf, **changes):
    values = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize(
    ("changes", "told"),
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
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial rotary factors"),
        ({"quantization_config": {"bits": 4}}, "asks for quantization_config"),
        ({"sliding_window": 64}, "asks for sliding_window=64"),
        ({"num_local_experts": 8}, "asks for num_local_experts=8"),
        ({"hidden_size": 25, "head_dim": 8}, "embed_tokens.weight has shape (61, 24), config.json gives (61, 25)"),
        ({"num_hidden_layers": 4}, "lacks model.layers.3."),
        ({"num_hidden_layers": 2}, "holds tensors the config does not describe: model.layers.2."),
        ({"attention_bias": True}, "lacks model.layers.0.self_attn.k_proj.bias"),
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
    ],
)
def test_what_a_config_asks_for_and_jaxpt_has_not_is_refused_by_name(tmp_path, changes, told):
    hf = hf_directory(tmp_path)
    edit(hf, **changes)
    with pytest.raises(JaxptError) as error:
        import_bundle(hf, tmp_path / "b")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_bad_files_are_refused_and_leave_nothing(tmp_path):
    hf = hf_directory(tmp_path)
    weights = hf / "model.safetensors"
    good = weights.read_bytes()

    def refused(told):
        with pytest.raises(JaxptError, match=told):
            import_bundle(hf, tmp_path / "b")
        assert not [p for p in tmp_path.iterdir() if p.name not in ("hf", "exists")]

    weights.write_bytes(good[:-100])
    refused("truncated or damaged")
    weights.write_bytes(good[:5])
    refused("is truncated or no safetensors file")
    weights.write_bytes(b"\x10" + b"\0" * 7 + b"not json at all!" + good)
    refused("its header is not JSON")
    tensors = {k: np.array(v) for k, v in _load(good, tmp_path).items()}
    save_file({**tensors, "extra.weight": np.zeros(3, np.float32)}, weights)
    refused("holds tensors the config does not describe: extra.weight")
    save_file({**tensors, "model.norm.weight": np.zeros(24, np.int32)}, weights)
    refused("model.norm.weight is I32; only F32, BF16, F16 are read")
    weights.unlink()
    refused(r"holds no \*.safetensors")
    (hf / "pytorch_model.bin").write_bytes(b"x")
    refused(r"holds pickles \(pytorch_model.bin\).*save_pretrained\('OUT'\)")
    (hf / "config.json").write_text("{")
    refused("config.json is not JSON")
    (hf / "config.json").unlink()
    refused("config.json does not exist")
    weights.write_bytes(good)


def _load(data, folder):
    (folder / "hf" / "tmp").write_bytes(data)
    out = load_file(folder / "hf" / "tmp")
    (folder / "hf" / "tmp").unlink()
    return out


def test_targets_that_exist_or_cannot_be_written_are_refused(tmp_path):
    hf = hf_directory(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(JaxptError, match="exists; remove it"):
        import_bundle(hf, tmp_path / "there")
    import_bundle(hf, tmp_path / "b")
    with pytest.raises(JaxptError, match="exists; remove it"):
        export_bundle(tmp_path / "b", tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxptError, match="cannot be written"):
        export_bundle(tmp_path / "b", tmp_path / "file" / "hf")
    with pytest.raises(JaxptError, match="cannot be written"):
        import_bundle(hf, tmp_path / "file" / "b")


def test_a_model_that_no_family_can_say_is_refused_naming_the_fact(tmp_path):
    c = config(embed_scale=2.0)
    save_bundle(Model(c, random_params(c)), tmp_path / "b")
    with pytest.raises(JaxptError, match=r"llama: export: the family llama cannot express embed_scale=2.0"):
        export_bundle(tmp_path / "b", tmp_path / "hf")
    with pytest.raises(JaxptError, match="--family=lama is unknown"):
        export_bundle(tmp_path / "b", tmp_path / "hf", "lama")
    assert not (tmp_path / "hf").exists()


def test_inert_keys_are_carried_through(tmp_path):
    hf = hf_directory(tmp_path)
    edit(hf, initializer_range=0.02, transformers_version="9.9", use_cache=True)
    import_bundle(hf, tmp_path / "b")
    export_bundle(tmp_path / "b", tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text()) == json.loads((hf / "config.json").read_text())


def test_a_tied_head_that_is_written_out_all_the_same_is_accepted_only_if_equal(tmp_path):
    hf = hf_directory(tmp_path, "tied")
    tensors = load_file(hf / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, hf / "model.safetensors")
    assert HuggingFaceCheckpoint(hf).config.tie_embeddings
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, hf / "model.safetensors")
    with pytest.raises(JaxptError, match=r"does not describe: lm_head.weight"):
        HuggingFaceCheckpoint(hf)
