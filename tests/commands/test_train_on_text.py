"""From text files to bits per byte: tokenizer, packing, `jaxpt train`, evaluation, a run that starts from a bundle."""

import json
import shutil

import pytest

from jaxpt import cli
from jaxpt.api import load as load_model
from jaxpt.api import save
from jaxpt.bundles import save_bundle
from jaxpt.checkpoints.checkpoints import read_run
from jaxpt.data import PackedSource
from jaxpt.data.build import build
from jaxpt.data.ledger import Used
from jaxpt.data.seen import documents_used
from jaxpt.interop import export_bundle
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.model import Model
from jaxpt.tokenizers import load, train_sentencepiece
from jaxpt.training.metrics import read
from tests.evaluation import sums

MODEL = {"vocab_size": 300, "embed": 32, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp": 64, "layers": 2}
CONFIG = """
def get_config(folder):
    return dict(
        model={model},
        tokenizer=folder + "/tokenizer.model",
        sources=dict(sums=dict(path=folder + "/packed", repeat=100)),
        stages=[dict(duration="60 steps", batch_size=8, sequence_length=64, mixture=dict(sums=1))],
        optimizer=dict(learning_rate=1e-2),
        evaluations=dict(bits_per_byte=dict(documents=dict(sums=folder + "/held.jsonl"), max_documents=20)),
        metrics=dict(every=10, tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    sums.write(folder / "train.jsonl", sums.texts(0, 60))
    sums.write(folder / "held.jsonl", sums.texts(60, 5))
    tokenizer = train_sentencepiece(sums.texts(0, 60), folder / "tokenizer.model", 300)
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
    train_sentencepiece([t.replace("plus", "and also") for t in sums.texts(0, 60)], other, 300)
    assert train(setting, tmp_path / "run", f"--config.tokenizer={other}") == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "config.sources.sums" in printed
    assert "was packed with tokenizer" in printed
    assert not (tmp_path / "run").exists()


def test_an_evaluation_without_a_tokenizer_is_refused(setting, tmp_path, capsys):
    bare = shutil.copytree(setting / "packed", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer"))
    options = ["--config.tokenizer=None", f"--config.sources.sums.path={bare}"]
    assert train(setting, tmp_path / "run", *options) == 1
    assert "bits_per_byte needs a tokenizer; set --config.tokenizer" in capsys.readouterr().err


def test_text_named_as_a_source_is_packed_on_first_use_and_trains_the_same(setting, run, tmp_path, capsys):
    cache = tmp_path / "cache"
    given = [f"--config.sources.sums.path={setting / 'train.jsonl'}", f"--config.cache={cache}"]
    assert train(setting, tmp_path / "run", *given) == 0
    assert bits(tmp_path / "run") == bits(run)
    capsys.readouterr()
    again = [*given, "--config.stages[0].duration=1 steps", "--config.evaluations.bits_per_byte.after=False"]
    assert train(setting, tmp_path / "again", *again) == 0
    assert "pack sums" not in capsys.readouterr().err  # it was there
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.sources.sums.path={text}", "--config.tokenizer=None"], "is text, which needs a tokenizer"),
        (["--config.sources.sums.pack.bos=True"], "packed is packed already; remove pack or name the text"),
        (["--config.sources.sums.path={text}", "--config.sources.sums.pack.field=txt"], "lacks the field 'txt'"),
        (["--config.sources.sums.path={text}", "--config.sources.sums.pack.packer=best"], "did you mean 'best_fit'?"),
        (["--config.sources.sums.path=nowhere.jsonl"], "config.sources.sums: nowhere.jsonl: no such file"),
        (["--config.sources.sums.path=nowhere"], "nowhere is not a packed source"),
    ],
)
def test_a_mistake_in_a_source_of_text_is_one_line(setting, tmp_path, capsys, overrides, message):
    given = [o.format(text=setting / "train.jsonl") for o in overrides]
    assert train(setting, tmp_path / "run", f"--config.cache={tmp_path / 'cache'}", *given) == 1
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_run_from_another_leaves_out_what_that_saw_at_another_row_length(setting, tmp_path, capsys):
    text = [f"--config.sources.sums.path={setting / 'train.jsonl'}", f"--config.cache={tmp_path / 'cache'}"]
    text += [
        "--config.stages[0].duration=3 steps",
        "--config.evaluations.bits_per_byte.before=False",
        "--config.evaluations.bits_per_byte.after=False",
    ]
    assert train(setting, tmp_path / "a", *text) == 0
    save(load_model(str(tmp_path / "a")), tmp_path / "bundle")
    assert cli.main(["inspect", str(tmp_path / "bundle")]) == 0
    assert "sums" in capsys.readouterr().out
    for start in ("a", "bundle"):
        given = [f"--config.init_from={tmp_path / start}", "--config.stages[0].load=params"]
        given += ["--config.stages[0].sequence_length=32", "--config.tokenizer=None"]
        assert train(setting, tmp_path / f"b_{start}", *text, *given) == 0
        assert "hold documents that were seen before and are left out" in capsys.readouterr().out
    documents = {}
    for run, step in (("a", 3), ("b_a", 3), ("b_bundle", 3)):
        for entry in read_run(tmp_path / run, step)["ledger"]:
            source = PackedSource.open(entry["path"])
            used = documents_used(source, [Used(**entry)])
            documents.setdefault((run, source.sequence_length), set()).update(d.tobytes() for d in used)
    assert documents["a", 64]
    for run in ("b_a", "b_bundle"):
        assert documents[run, 64] == documents["a", 64]
        assert len(documents[run, 32]) > 20
        assert not documents[run, 32] & documents["a", 64]
