"""From text files to bits per byte: tokenizer, packing, `jaxpt train`, evaluation, a run that starts from a bundle."""

import json

import pytest

from jaxpt import cli
from jaxpt.bundles import save_bundle
from jaxpt.data.build import build
from jaxpt.interop import export_bundle
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.model import Model
from jaxpt.tokenizers import load, train_sentencepiece
from jaxpt.training.metrics import read

MODEL = {"vocab_size": 300, "embed": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 64, "layers": 2}
CONFIG = """
def get_config(folder):
    return dict(
        model={model},
        tokenizer=folder + "/tokenizer.model",
        sources=dict(sums=dict(path=folder + "/packed", repeat=100)),
        stages=[dict(duration="60 steps", batch_size=8, sequence_length=64, mixture=dict(sums=1))],
        optimizer=dict(learning_rate=1e-2),
        evaluation=dict(bits_per_byte=dict(sums=folder + "/held.jsonl"), max_documents=20),
        metrics=dict(every=10, tensorboard=False),
    )
"""


def sums(start, count):
    return [
        f"{a} plus {b} is {a + b}.\n{a} times {b} is {a * b}." for a in range(start, start + count) for b in range(9)
    ]


def jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    jsonl(folder / "train.jsonl", sums(0, 60))
    jsonl(folder / "held.jsonl", sums(60, 5))
    tokenizer = train_sentencepiece(sums(0, 60), folder / "tokenizer.model", 300)
    build(str(folder / "train.jsonl"), folder / "packed", tokenizer, 64)
    (folder / "config.py").write_text(CONFIG.format(model=MODEL))
    return folder


def train(setting, workdir, *overrides):
    return cli.main(["train", f"--config={setting / 'config.py'}:{setting}", f"--workdir={workdir}", *overrides])


@pytest.fixture(scope="module")
def run(setting):
    assert train(setting, setting / "run") == 0
    return setting / "run"


def bits(workdir):
    return {r["step"]: r["eval/bpb/sums"] for r in read(workdir / "metrics.jsonl") if "eval/bpb/sums" in r}


def test_training_lowers_the_bits_per_byte_of_held_out_text(run):
    assert bits(run).keys() == {0, 60}
    assert bits(run)[60] < bits(run)[0] / 2


def test_the_tokenizer_travels_with_the_run(setting, run):
    assert load(run / "tokenizer").fingerprint == load(setting / "tokenizer.model").fingerprint


def test_a_run_may_start_from_a_bundle(setting, tmp_path):
    config = ModelConfig(**{**MODEL, "layers": uniform_layers(2)})
    lineage = ({"op": "made"},)
    model = Model(config, init_params(config, 7), load(setting / "tokenizer.model"), lineage)
    save_bundle(model, tmp_path / "bundle")
    start = [f"--config.init_from={tmp_path / 'bundle'}", "--config.tokenizer=None"]
    assert train(setting, tmp_path / "run", *start, "--config.stages[0].duration=5 steps") == 0
    assert json.loads((tmp_path / "run" / "lineage.json").read_text()) == [{"op": "made"}]
    assert bits(tmp_path / "run").keys() == {0, 5}


def test_a_run_may_start_from_a_hugging_face_directory(setting, tmp_path, capsys):
    config = ModelConfig(**{**MODEL, "layers": uniform_layers(2)})
    model = Model(config, init_params(config, 7), load(setting / "tokenizer.model"))
    save_bundle(model, tmp_path / "bundle")
    hf = export_bundle(tmp_path / "bundle", tmp_path / "hf")
    start = [f"--config.init_from={hf}", "--config.tokenizer=None"]
    assert train(setting, tmp_path / "run", *start, "--config.stages[0].duration=5 steps") == 0
    (entry,) = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert entry["op"] == "import"
    assert set(entry["files"]) == {"config.json", "model.safetensors"}
    assert bits(tmp_path / "run").keys() == {0, 5}
    (hf / "model.safetensors").rename(hf / "pytorch_model.bin")
    capsys.readouterr()
    assert train(setting, tmp_path / "other", *start) == 1
    assert "holds pickles (pytorch_model.bin), which can run code; convert them:" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_tokenizer_the_data_was_not_packed_with_is_refused(setting, tmp_path, capsys):
    other = tmp_path / "other.model"
    train_sentencepiece([t.replace("plus", "and also") for t in sums(0, 60)], other, 300)
    assert train(setting, tmp_path / "run", f"--config.tokenizer={other}") == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "config.sources.sums" in told
    assert "was packed with tokenizer" in told
    assert not (tmp_path / "run").exists()


def test_an_evaluation_without_a_tokenizer_is_refused(setting, tmp_path, capsys):
    assert train(setting, tmp_path / "run", "--config.tokenizer=None") == 1
    assert "bits_per_byte needs a tokenizer; set config.tokenizer" in capsys.readouterr().err
