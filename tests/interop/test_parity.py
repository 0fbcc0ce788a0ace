"""Each family gives the logits of transformers, and goes out as it came in, bit for bit."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.interop import export_bundle, import_bundle, load_hf
from jaxpt.models import flatten, forward, unflatten
from tests.interop.foreign import CASES, logits, made

missing = [n for n in ("torch", "transformers") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}: install jaxpt[parity]"),
]

ROW = np.random.default_rng(0).integers(0, 67, (2, 40))  # positions beyond the window of 32
PAD, CUT = 9, 15  # of the left-padded row; of the row that holds two documents
TOKENS = np.concatenate([ROW, ROW])
SEGMENTS = np.ones_like(TOKENS)
SEGMENTS[2, :PAD] = 0
SEGMENTS[3, CUT:] = 2
POSITIONS = np.tile(np.arange(40), (4, 1))
POSITIONS[2] = np.maximum(POSITIONS[2] - PAD, 0)
POSITIONS[3, CUT:] -= CUT


class Pair:
    """A transformers model, its directory, what we read there, and our logits of the four rows as one program."""

    def __init__(self, name, folder):
        self.kind, self.folder, self.model = CASES[name][0], folder, made(name)
        self.model.save_pretrained(folder)
        self.ours = load_hf(folder)
        rows = (jnp.array(TOKENS), jnp.array(SEGMENTS), jnp.array(POSITIONS))
        self.run = jax.jit(lambda params: forward(self.ours.config, params, *rows))
        self.logits = np.asarray(self.run(self.ours.params))


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    return Pair(request.param, tmp_path_factory.mktemp(request.param) / "hf")


def close(ours, theirs, tolerance=2e-4):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


def test_logits_are_those_of_transformers(pair):
    close(pair.logits[:2], logits(pair.model, ROW))


def test_padding_changes_nothing(pair):
    real = SEGMENTS[2:3]
    want = logits(pair.model, TOKENS[2:3], real, POSITIONS[2:3])
    close(np.where(real[..., None], pair.logits[2:3], 0), np.where(real[..., None], want, 0))


def test_packed_documents_equal_separate_ones(pair):
    one, two = logits(pair.model, TOKENS[3:, :CUT]), logits(pair.model, TOKENS[3:, CUT:])
    close(pair.logits[3:], np.concatenate([one, two], axis=1))


def test_every_leaf_matters(pair):
    flat = flatten(pair.ours.params)
    for path, leaf in flat.items():
        noise = np.random.default_rng(1).normal(0, 0.3, leaf.shape).astype(leaf.dtype)
        after = pair.run(unflatten({**flat, path: leaf + noise}))
        assert np.abs(after - pair.logits).max() > 1e-4 * np.abs(pair.logits).max(), path


def test_it_goes_out_as_it_came_in(pair, tmp_path):
    from transformers import AutoModelForCausalLM

    import_bundle(pair.folder, tmp_path / "bundle")
    export_bundle(tmp_path / "bundle", tmp_path / "hf", shard_bytes=20_000)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager")
    assert json.loads((tmp_path / "hf/config.json").read_text()) == json.loads(
        (pair.folder / "config.json").read_text()
    )
    before, after = pair.model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.equal(after[name]), name


def test_a_config_written_anew_says_the_same(pair):
    """Without the imported config.json: what a reshaped model is exported with."""
    from transformers import AutoConfig

    from jaxpt.interop.family import write_config
    from jaxpt.interop.find_family import FAMILIES

    written = write_config(FAMILIES[pair.kind], pair.ours.config)
    theirs = AutoConfig.for_model(pair.kind, **{k: v for k, v in written.items() if k != "model_type"}).to_dict()
    original = pair.model.config.to_dict()
    free = ("rope_theta", "architectures", "max_window_layers", "sliding_window")  # said otherwise, or not read
    free += ("decoder_sparse_step", "mlp_only_layers")  # two ways to say which layers are dense
    free += ("rope_parameters",) if "mscale" in original["rope_parameters"] else ()  # written as attention_factor
    for key, value in written.items():
        if key in original and key not in free and (key, original[key]) != ("head_dim", None):
            assert theirs[key] == original[key], (key, value)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_bits(tmp_path, dtype):
    from safetensors.torch import load_file

    model = made("qwen2", dtype=dtype)
    model.save_pretrained(tmp_path / "hf")
    import_bundle(tmp_path / "hf", tmp_path / "bundle")
    export_bundle(tmp_path / "bundle", tmp_path / "again")
    before, after = (load_file(tmp_path / d / "model.safetensors") for d in ("hf", "again"))
    assert before.keys() == after.keys()
    assert all(before[n].equal(after[n]) and before[n].dtype == after[n].dtype for n in before)


@pytest.mark.parametrize("name", ["llama3", "gemma2", "qwen2_windows", "qwen2_moe_mixed", "qwen3_moe_mixed"])
def test_the_older_config_dialect_is_read(tmp_path, name):
    model = made(name)
    model.save_pretrained(tmp_path / "hf")
    newer = load_hf(tmp_path / "hf").config  # whose logits are compared above
    values = json.loads((tmp_path / "hf/config.json").read_text())
    rope = values.pop("rope_parameters")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    values.pop("layer_types", None)
    if name.startswith("qwen3_moe"):
        values["num_experts"] = values.pop("num_local_experts")
        values["max_window_layers"] = 4
    (tmp_path / "hf/config.json").write_text(json.dumps(values))
    assert load_hf(tmp_path / "hf").config == newer


def test_the_real_tiny_model_exported_continues_as_its_golden_outputs(shared, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    import_bundle(shared / "data/stories260K/hf", tmp_path / "b")
    model = AutoModelForCausalLM.from_pretrained(export_bundle(tmp_path / "b", tmp_path / "hf"))
    golden = json.loads((shared / "data/stories260K/golden_greedy.json").read_text())
    for case in golden["cases"]:
        prompt, want = torch.tensor([case["prompt_ids"]]), case["token_ids"]
        new = len(want) - prompt.shape[1]
        got = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=new, min_new_tokens=new
        )
        assert got[0].tolist() == want
