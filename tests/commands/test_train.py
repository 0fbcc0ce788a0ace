"""`jaxpt train` from packed sources to a finished run; what it refuses, in one line and before step one."""

import json
import shutil

import jax
import numpy as np
import pytest

from benchmarks.made_sources import make_sources
from jaxpt import cli
from jaxpt.api import load
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.models import flatten
from jaxpt.models.size import flops_per_token
from jaxpt.training.metrics import read

pytestmark = pytest.mark.newest

CONFIG = """
def get_config(folder):
    stage = dict(batch_size=8, sequence_length=64, mixture=dict(a=0.5, b=0.3, c=0.2))
    model = dict(vocab_size=512, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True)
    return dict(
        model=model,
        sources={n: dict(path=folder + "/" + n) for n in "abc"},
        stages=[dict(stage, duration="10 steps"), dict(stage, duration="5 steps", mixture=dict(a=0.1, b=0.9))],
        optimizer=dict(learning_rate=1e-2),
        checkpoint=dict(every="5 steps"),
        metrics=dict(every=1, tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    make_sources(folder / "sources", rows=300)
    (folder / "config.py").write_text(CONFIG)
    return folder


def train(setting, workdir, *overrides, sources=None):
    config = f"{setting / 'config.py'}:{sources or setting / 'sources'}"
    return cli.main(["train", f"--config={config}", f"--workdir={workdir}", *overrides])


@pytest.fixture(scope="module")
def run(setting):
    assert train(setting, setting / "run") == 0
    return setting / "run"


def losses(workdir):
    return {r["step"]: r["train/loss"] for r in read(workdir / "metrics.jsonl") if "train/loss" in r}


def test_a_run_trains_on_its_mixture_and_says_what_it_used(run):
    assert losses(run)[15] < losses(run)[1]
    assert finished_steps(run) == [5, 10, 15]
    last = read(run / "metrics.jsonl")[-1]
    assert last["data/wanted/b"] == pytest.approx(0.9, abs=1e-6)
    assert abs(last["data/share/b"] - 0.9) * 40 < 1
    ledger = read_run(run, 15)["ledger"]
    assert sum(e["stop"] - e["start"] for e in ledger) == 15 * 8
    shares = [last[f"data/tokens/{n}"] for n in "abc"]
    assert sum(shares) == pytest.approx(1)
    assert abs(sum(last[f"data/deviation/{n}"] for n in "abc")) < 1e-6


def test_stages_mixtures_and_the_ledger_are_shown(setting, run, capsys):
    assert cli.main(["plan", f"--config={setting / 'config.py'}:{setting / 'sources'}"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    flops = f"{2560 * flops_per_token(load(run).config, 64):.3g}"
    assert ["stage1", "5", "2,560", flops, "8", "64", "0.01", "to", "0.001", "5", "cosine"] in shown
    assert ["a", "50", "10"] in shown
    assert ["c", "20"] in shown  # nothing of it in the second stage
    assert cli.main(["inspect", str(run)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in shown if line[:1] == ["b"])[1:6] == ["0", "60", "0", "60", "1"]


def test_inspect_shows_where_the_mixture_changed(run, capsys):
    assert cli.main(["inspect", str(run / "checkpoints" / "5")]) == 0
    shown = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(shown) if line.startswith("mixture from step"))
    assert shown[first + 2].split() == ["0", "reached", "8", "64", "0.5", "0.3", "0.2"]
    assert shown[first + 3].split() == ["10", "planned", "8", "64", "0.1", "0.9", "0"]
    lineage = [line.split() for line in shown[next(i for i, line in enumerate(shown) if line.startswith("lineage")) :]]
    assert [line[:3] for line in lineage[2:4]] == [["0", "init", "0"], ["1", "train", "2,560"]]  # not only at random


def test_stopping_and_going_on_is_the_same_run(setting, run, tmp_path):
    short = ["--config.stages[0].duration=8 steps", "--config.stages[1].duration=2 steps"]
    whole = ["--config.stages[0].duration=8 steps"]
    steady = ["--config.stages[0].schedule.name=constant", "--config.stages[1].schedule.name=constant"]
    assert train(setting, tmp_path / "a", *whole, *steady) == 0
    assert train(setting, tmp_path / "b", *short, *steady) == 0
    assert train(setting, tmp_path / "b", *whole, *steady) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    first, second = (read_run(tmp_path / n, 13) for n in "ab")
    assert first["digests"] == second["digests"]
    assert first["ledger"] == second["ledger"]


def test_a_checkpoint_is_loaded_with_the_rope_of_its_stage(setting, tmp_path):
    longer = "--config.stages[1].rope={'theta': 5e4, 'max_positions': 4096}"
    assert train(setting, tmp_path / "long", longer) == 0
    short = load(tmp_path / "long" / "checkpoints" / "10").config
    assert (short.rope.theta, short.max_positions) == (10_000.0, 2048)
    config = load(tmp_path / "long").config
    assert (config.rope.theta, config.max_positions) == (5e4, 4096)
    assert train(setting, tmp_path / "next", f"--config.init_from={tmp_path / 'long'}") == 0
    assert load(tmp_path / "next").config == config


def test_a_second_run_starts_from_the_first_and_takes_other_rows(setting, run, tmp_path):
    assert train(setting, tmp_path / "next", f"--config.init_from={run}") == 0
    assert losses(tmp_path / "next")[1] < losses(run)[1] - 0.5
    lineage = json.loads((tmp_path / "next" / "lineage.json").read_text())
    assert [(e["op"], e["steps"]) for e in lineage] == [("train", 15)]
    ledger = read_run(tmp_path / "next", 15)["ledger"]
    assert sum(e["stop"] - e["start"] for e in ledger) == 2 * 15 * 8  # the union: no row was taken twice


def test_a_run_that_goes_on_needs_nothing_of_where_it_began(setting, run, tmp_path, capsys):
    parent, workdir = tmp_path / "parent", tmp_path / "next"
    shutil.copytree(run, parent)
    start = f"--config.init_from={parent}"
    assert train(setting, workdir, start) == 0
    began = (workdir / "lineage.json").read_bytes()
    shutil.copytree(parent / "checkpoints" / "10", parent / "checkpoints" / "20")  # the parent trains on
    assert train(setting, workdir, start) == 0
    assert (workdir / "lineage.json").read_bytes() == began
    shutil.rmtree(parent / "checkpoints" / "20")
    (workdir / "lineage.json").write_bytes(began.replace(b"15", b"10"))
    capsys.readouterr()
    assert train(setting, workdir, start) == 0  # restored exactly: the parent still gives it
    assert "lineage.json was damaged; written again exactly as it was" in capsys.readouterr().out
    (workdir / "lineage.json").write_bytes(began.replace(b"15", b"10"))
    shutil.rmtree(parent)
    assert train(setting, workdir, start) == 1
    assert "lineage.json is damaged: it is not what digests.json says" in capsys.readouterr().err
    (workdir / "lineage.json").write_bytes(began)
    assert train(setting, workdir, start) == 0


def test_a_run_goes_out_as_a_hugging_face_model(run, tmp_path, capsys):
    assert cli.main(["export", f"--from={run}", f"--to={tmp_path / 'hf'}"]) == 0
    ours, back = load(run), load(tmp_path / "hf")
    assert back.config == ours.config
    for path, leaf in flatten(ours.params).items():
        np.testing.assert_array_equal(leaf, flatten(back.params)[path], err_msg=path)
    capsys.readouterr()
    assert cli.main(["export", f"--from={run}", f"--to={tmp_path / 'new'}", "--family=lama"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1  # and no bar: nothing was read
    assert "did you mean 'llama'" in said


def test_moments_are_taken_along_unless_only_params_are_loaded(setting, run, tmp_path):
    for what, count in (("params+optimizer", 30), ("params", 15)):
        workdir = tmp_path / what
        assert train(setting, workdir, f"--config.init_from={run}", f"--config.stages[0].load={what}") == 0
        assert read_run(workdir, 15)["digests"]["count"] == [str(count)]


def refused(capsys, *args, **kinds):
    capsys.readouterr()
    assert train(*args, **kinds) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("jaxpt train: ")
    return err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.stages[0].sequence_length=128", "sequence_length is 128, the rows of source a"),
        ("--config.model.vocab_size=500", "has token ids up to 511, the model's vocabulary has 500"),
        ("--config.stages[0].duration=10000 steps", "rows for this run, the plan needs"),
        (
            "--config.stages[0].batch_size=12",
            "which the 8 devices on the mesh axes data, fsdp and expert do not divide",
        ),
        ("--config.sharding.mesh.fsdp=3", "needs 3 devices, there are 8"),
        ("--config.stages[0].freeze=('vocabulary',)", "did you mean 'vocab'?"),
        ("--config.init_from=nowhere", "config.init_from: nowhere does not exist"),
        ("--config.optimizer.name=adam", "config.optimizer.name is 'adam', which is not an optimizer (did you mean"),
        ("--config.stages[1].objective.name=next", "config.stages[1].objective.name is 'next'"),
    ],
)
def test_a_mistake_is_one_line_before_step_one(setting, tmp_path, capsys, override, message):
    assert message in refused(capsys, setting, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()  # so that no wrong model or seed is kept for the next start


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.sources.a.order_seed=5", "config.sources.a.order_seed was 0; the 44 rows that this run has taken"),
        ("--config.stages[0].name=other", "config.stages[0] is named 'other', the run has trained stage 'stage0'"),
        ("--config.stages[1].duration=10000 steps", "rows for this run, the plan needs"),
    ],
)
def test_a_start_that_is_refused_leaves_the_run_as_it_was(setting, run, tmp_path, capsys, override, message):
    shutil.copytree(run, tmp_path / "run")
    before = files(tmp_path / "run")
    assert message in refused(capsys, setting, tmp_path / "run", override)
    assert files(tmp_path / "run") == before
    assert train(setting, tmp_path / "run") == 0
    assert capsys.readouterr().out.count(" before, ") == 0  # the config of the last start that was not refused


def test_a_bucket_is_no_run_directory(setting, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "mount the bucket" in refused(capsys, setting, "gs://bucket/run")
    assert not list(tmp_path.iterdir())


def test_a_truncated_data_file_is_told_before_step_one(setting, tmp_path, capsys):
    shutil.copytree(setting / "sources", tmp_path / "sources")
    file = next((tmp_path / "sources" / "b").glob("*.array_record"))
    file.write_bytes(file.read_bytes()[:-100])
    printed = refused(capsys, setting, tmp_path / "run", sources=tmp_path / "sources")
    assert file.name in printed


def test_a_source_that_changed_under_a_run_is_refused(setting, run, tmp_path, capsys):
    shutil.copytree(setting / "sources", tmp_path / "sources")
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "sources" / "b")
    shutil.copytree(setting / "sources" / "a", tmp_path / "sources" / "b")
    printed = refused(capsys, setting, tmp_path / "run", sources=tmp_path / "sources")
    assert "config.sources.b" in printed
    assert "is not the source this run began with" in printed


def test_the_batches_do_not_depend_on_the_mesh(setting, run, tmp_path):
    mesh = ["--config.sharding.mesh.fsdp=2", "--config.sharding.mesh.data=2", "--config.sharding.mesh.tensor=2"]
    # kv_heads 1 is not divided by tensor=2: listed, so that it may stay whole
    whole = "--config.sharding.allow_replicated=('blocks/dense/k', 'blocks/dense/v')"
    assert train(setting, tmp_path / "run", *mesh, whole) == 0
    assert read_run(tmp_path / "run", 15)["ledger"] == read_run(run, 15)["ledger"]
    ours, theirs = losses(tmp_path / "run"), losses(run)
    np.testing.assert_allclose([ours[s] for s in range(1, 16)], [theirs[s] for s in range(1, 16)], rtol=1e-4)
    assert jax.device_count() == 8


def test_a_run_goes_on_from_an_earlier_checkpoint_with_the_rows_that_were_due_then(setting, run, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    assert train(setting, workdir, "--from_step=7") == 1
    refused = capsys.readouterr().err.strip().splitlines()
    assert refused == [f"jaxpt train: --from_step=7: {workdir}/checkpoints has no such checkpoint; it has 5, 10, 15"]
    assert train(setting, tmp_path / "new", "--from_step=5") == 1
    assert not (tmp_path / "new").exists()
    assert train(setting, workdir, "--from_step=10", "--config.stages[1].learning_rate=1e-4") == 0
    assert "resumed at step 10 of 15" in capsys.readouterr().out
    assert read_run(workdir, 15)["ledger"] == read_run(run, 15)["ledger"]
    assert read_run(workdir, 15)["digests"] != read_run(run, 15)["digests"]
    assert (workdir / "checkpoints" / "15.set-aside").is_dir()
    before = losses(run)
    assert {s: v for s, v in losses(workdir).items() if s <= 11} == {s: v for s, v in before.items() if s <= 11}


@pytest.mark.parametrize("key", ["consumed", "start", "stop", "step"])
def test_a_flipped_digit_of_the_schedule_log_or_the_ledger_is_damage(setting, run, tmp_path, capsys, key):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    file = workdir / "checkpoints" / "15" / "run" / "metadata"
    text = file.read_text()
    place = text.rindex(f'"{key}": ') + len(key) + 4
    place = next(i for i in range(place, len(text)) if text[i].isdigit() and not text[i + 1].isdigit())  # the last one
    file.write_text(text[:place] + str(int(text[place]) ^ 1) + text[place + 1 :])
    assert cli.main(["inspect", str(workdir)]) == 1
    error = capsys.readouterr().err.strip()
    assert "checkpoints/15 is damaged: its run item" in error
    assert "\n" not in error
    assert train(setting, workdir) == 0
    printed = capsys.readouterr().out
    assert "checkpoint 15 is damaged (its run item does not match its digest); set aside as 15.damaged" in printed
    assert "resumed at step 10 of 15" in printed
    assert read_run(workdir, 15)["ledger"] == read_run(run, 15)["ledger"]
    assert losses(workdir) == losses(run)
