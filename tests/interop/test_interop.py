"""Import and export without the foreign library: the real tiny model, sharded files, meshes, mixtures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxpt import api, cli
from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.errors import JaxptError
from jaxpt.generation import Sampling, generate
from jaxpt.interop import export_bundle, import_bundle, load_hf
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.models import Model, MoeConfig, flatten, forward, param_specs, uniform_layers
from jaxpt.reshape import reshaped
from jaxpt.reshape.upcycle import Upcycling, upcycle
from jaxpt.sharding import make_mesh, param_shardings
from tests.interop.made import FACTS, FAMILY_OF, drawn, edit, hf_directory
from tests.models.tiny import VARIANTS


def test_the_real_tiny_model_continues_as_its_golden_outputs(shared, tmp_path):
    golden = json.loads((shared / "data/stories260K/golden_greedy.json").read_text())
    import_bundle(shared / "data/stories260K/hf", tmp_path / "b")
    model, prompts = api.load(tmp_path / "b"), [case["prompt_ids"] for case in golden["cases"]]
    made = generate(model.config, model.params, prompts, 200, sampling=Sampling(0))
    for case, prompt, got in zip(golden["cases"], prompts, made, strict=True):
        want = case["token_ids"][len(prompt) :]
        assert got[: len(want)] == want
        assert model.tokenizer.encode(case["prompt"], bos=True) == prompt
        with jax.disable_jit():  # operation by operation: nothing to compile
            logits = forward(model.config, model.params, jnp.array([prompt]))[0, -1]
        assert np.abs(np.asarray(logits) - np.array(case["logits_after_prompt"])).max() < 1e-3


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
    golden = json.loads((shared / "data/stories260K/golden_greedy.json").read_text())["cases"]
    prompts = [f"--prompt={case['prompt']}" for case in golden]
    assert cli.main(["generate", f"--model={hf}", *prompts, "--temperature=0", "--max_new_tokens=200"]) == 0
    message = capsys.readouterr().out.split("---\n")
    assert all(text.startswith(case["text"].strip()) for text, case in zip(message, golden, strict=False))


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
    params = drawn(c)
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


def test_onto_a_mesh_no_device_has_more_read_than_its_part(tmp_path, monkeypatch):
    hf = hf_directory(tmp_path, "tied", vocab_size=64)
    model, read, whole = load_hf(hf), [], HuggingFaceCheckpoint.slice

    def noted(self, name, index=...):
        read.append(whole(self, name, index))
        return read[-1]

    monkeypatch.setattr(HuggingFaceCheckpoint, "slice", noted)
    where = param_shardings(param_specs(model.config), make_mesh({"fsdp": 8}))
    load_hf(hf, shardings=where)
    split = {path: leaf for path, leaf in flatten(model.params).items() if not flatten(where)[path].is_fully_replicated}
    assert {"embed/table", "blocks/dense/q", "blocks/dense/down"} <= split.keys()
    largest = max(leaf.nbytes // (leaf.shape[0] if path.startswith("blocks") else 1) for path, leaf in split.items())
    assert max(value.nbytes for value in read) == largest // 8


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
    grown = reshaped(model, upcycle(model.config, Upcycling(4, 2, keep=1.0)))
    save_bundle(grown, tmp_path / "b")
    assert cli.main(["export", f"--from={tmp_path / 'b'}", f"--to={tmp_path / 'again'}"]) == 0
    assert "(mixtral)" in capsys.readouterr().out
    back = load_hf(tmp_path / "again")
    assert back.config.moe == grown.config.moe
    tokens = jnp.arange(12).reshape(1, -1)
    with jax.disable_jit():
        got, want = (forward(m.config, m.params, tokens) for m in (back, grown))
    np.testing.assert_array_equal(got, want)


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


def test_a_model_in_memory_goes_out_in_the_dtype_asked_for(tmp_path):
    c = VARIANTS["llama"]
    params = drawn(c)
    export_bundle(Model(c, params), tmp_path / "hf", dtype="bfloat16")
    assert json.loads((tmp_path / "hf/config.json").read_text())["dtype"] == "bfloat16"
    for path, leaf in flatten(load_hf(tmp_path / "hf").params).items():
        np.testing.assert_array_equal(leaf, np.asarray(flatten(params)[path]).astype(jnp.bfloat16), err_msg=path)
    with pytest.raises(JaxptError, match=r"dtype 'bf16' is not one of .* \(did you mean 'bfloat16'\?\)"):
        export_bundle(Model(c, params), tmp_path / "other", dtype="bf16")


def test_inert_keys_are_carried_through(tmp_path):
    hf = hf_directory(tmp_path)
    edit(hf, initializer_range=0.02, transformers_version="9.9", use_cache=True)
    (hf / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    import_bundle(hf, tmp_path / "b")
    export_bundle(tmp_path / "b", tmp_path / "again")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "again" / name).read_text()) == json.loads((hf / name).read_text())


def test_a_tied_head_that_is_written_out_all_the_same_is_accepted_only_if_equal(tmp_path):
    hf = hf_directory(tmp_path, "tied")
    tensors = load_file(hf / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, hf / "model.safetensors")
    assert HuggingFaceCheckpoint(hf).config.tie_embeddings
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, hf / "model.safetensors")
    with pytest.raises(JaxptError, match=r"config.json asks for tie_word_embeddings=True"):
        HuggingFaceCheckpoint(hf)
