"""What earlier commits wrote (tests/fixtures) opens, and goes on as it would have gone on then."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import jaxpt
from data_tools.commands import inspect as inspect_data
from data_tools.commands import run as pipeline
from data_tools.pipelines.pipeline import Pipeline
from data_tools.pipelines.planning import plan
from jaxpt.bundles import open_bundle
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.commands import inspect, report, train
from jaxpt.config.file import load
from jaxpt.data.packed import PackedSource
from jaxpt.data.tokenized import TokenizedDocuments
from jaxpt.models.specs import flatten
from jaxpt.training.metrics import read

FIXTURES = Path(__file__).with_name("fixtures")


@pytest.fixture(params=sorted(p.name for p in FIXTURES.glob("*.tar.gz")))
def written(request, tmp_path, monkeypatch):
    """The current folder: what the commit wrote."""
    with tarfile.open(FIXTURES / request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def losses(run):
    return {r["step"]: r["train/loss"] for r in read(run / "metrics.jsonl") if "train/loss" in r}


def test_a_run_goes_on_to_where_it_ended_then(written, capsys):
    assert train.main(["--config=run.py", "--workdir=run"]) == 0
    said = capsys.readouterr().out
    assert "resumed at step 8 of 12" in said
    assert "before," not in said, "no key of the config has changed"
    now, then = losses(written / "run"), losses(written / "finished")
    assert now.keys() == then.keys()
    np.testing.assert_allclose(list(now.values()), list(then.values()), rtol=1e-5)
    last, expected = read_run(written / "run", 12), read_run(written / "finished", 12)
    assert last["ledger"] == expected["ledger"]
    assert last["tokens"] == expected["tokens"] == 12 * 256
    assert len(last["digests"]) == len(expected["digests"])


def test_a_finished_run_has_nothing_left_to_do(written, capsys):
    before = (written / "finished/metrics.jsonl").read_bytes()
    assert train.main(["--config=run.py", "--workdir=finished"]) == 0
    assert "resumed at step 12 of 12" in capsys.readouterr().out
    assert (written / "finished/metrics.jsonl").read_bytes() == before
    assert 12 in finished_steps(written / "finished")


def test_a_bundle_and_the_checkpoint_that_it_was_made_of_hold_the_same(written):
    bundle, run = jaxpt.load("bundle"), jaxpt.load("run")
    assert bundle.config == run.config
    assert bundle.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert bundle.lineage[-1]["ledger"] == run.lineage[-1]["ledger"]
    other = flatten(run.params)
    for path, leaf in flatten(bundle.params).items():
        np.testing.assert_array_equal(leaf, other[path], err_msg=path)
    open_bundle("bundle").verify()


def test_packed_sources_and_tokenized_documents_open(written):
    for name in "ab":
        source = PackedSource.open(f"pipeline/pack/{name}")
        source.verify()
        assert (source.documents, source.sequence_length) == (40, 32)
    assert TokenizedDocuments("pipeline/tokenize").facts["vocab_size"] == 272


def test_a_pipeline_that_was_done_is_done(written, capsys):
    before = {p: p.read_bytes() for p in sorted(Path("pipeline").rglob("*")) if p.is_file()}
    assert pipeline.main(["--config=pipeline.py", "--workdir=pipeline"]) == 0
    assert "==" not in capsys.readouterr().out, "no step ran"
    assert {p: p.read_bytes() for p in before} == before


KEYS = {  # the first digits, by the code of b398682 for its configs/data/web.py
    "clean": "19f0dac863ec3e73",
    "dedup": "30311044d2cbc5f1",
    "decontaminate": "c3bbee86a7d17550",
    "tokenize": "85f80a169437afd7",
    "pack": "9c23108afc74cb09",
}


def test_a_pipeline_s_config_of_then_is_planned_with_the_keys_of_then(written):
    if not Path("configs/data/web.py").exists():
        pytest.skip("the fixture holds no configs")
    flags = ["--config.tokenizer=./tokenizer.model", "--config.eval=./held_out_a.jsonl"]
    steps = plan(load(Pipeline, "configs/data/web.py:raw/*.jsonl", flags), "web")
    assert {step.name: step.key[:16] for step in steps} == KEYS
    other = plan(load(Pipeline, "configs/data/web.py:raw/0.jsonl", flags), "web")
    assert not {step.key[:16] for step in other} & set(KEYS.values())  # the proof above can fail


def test_a_pipeline_that_was_done_runs_anew_with_another_option(written):
    more = "--config.steps[2].options.sequence_length=16"
    assert pipeline.main(["--config=pipeline.py", "--workdir=pipeline", more]) == 0
    assert PackedSource.open("pipeline/pack/a").sequence_length == 16


@pytest.mark.parametrize("path", ["run", "bundle", "finished", "pipeline/pack/a"])
def test_it_can_be_looked_at(written, path, capsys):
    assert inspect.main([path]) == 0
    assert "272" in capsys.readouterr().out


def test_it_can_be_reported(written, capsys):
    assert inspect_data.main(["pipeline"]) == 0
    assert report.main(["--workdir=finished"]) == 0


def test_a_new_run_starts_from_it_and_takes_none_of_its_rows(written):
    assert train.main(["--config=run.py", "--workdir=next", "--config.init_from=run"]) == 0
    used = {(e["fingerprint"], e["key"], e["epoch"]): e for e in read_run(written / "run", 8)["ledger"]}
    rows = sum(e["stop"] - e["start"] for e in read_run(written / "next", 12)["ledger"])
    assert rows == sum(e["stop"] - e["start"] for e in used.values()) + 12 * 8
    assert json.loads((written / "next/lineage.json").read_text())[-1]["steps"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("written", ["b398682.tar.gz"], indirect=True)
def test_a_run_with_experts_evaluations_and_moving_weights_goes_on_to_where_it_ended_then(written):
    one_device = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": "", "PYTHONPATH": str(FIXTURES.parents[1])}
    command = [
        sys.executable,
        "-P",
        "-m",
        "jaxpt",
        "train",
        "--config=rich.py",
        "--workdir=rich",
    ]  # rich/ is not a module
    done = subprocess.run(command, env=one_device, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "resumed at step 6 of 9" in said
    assert "before," not in said, "no key of the config has changed"
    now, then = (read(written / name / "metrics.jsonl") for name in ("rich", "rich_finished"))
    new = {"perf/warmup", "train/targets", "flops"}  # which a record may have today
    names = [[(r["step"], [k for k in r if k not in new]) for r in run] for run in (now, then)]
    assert names[0] == names[1], "the same records with the same names in the same order"
    for kind in ("eval/bpb/", "reweight/weight/"):
        values = [[(r["step"], k, v) for r in run for k, v in r.items() if k.startswith(kind)] for run in (now, then)]
        assert [v[:2] for v in values[0]] == [v[:2] for v in values[1]]
        np.testing.assert_allclose([v[2] for v in values[0]], [v[2] for v in values[1]], rtol=1e-5)
    logs = [read_run(written / name, 9)["schedule_log"]["anchors"] for name in ("rich", "rich_finished")]
    assert [a["step"] for a in logs[0]] == [a["step"] for a in logs[1]]
    now, then = losses(written / "rich"), losses(written / "rich_finished")
    assert now.keys() == then.keys()
    np.testing.assert_allclose(list(now.values()), list(then.values()), rtol=1e-5)
    assert "extra" not in read_run(written / "rich", 9)
    assert not (written / "rich/checkpoints/9/extra").exists()
