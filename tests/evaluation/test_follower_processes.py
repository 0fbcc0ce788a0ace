"""A run and its follower as two processes at once, and a follower that is killed while it scores."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import cli
from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.generation import InferenceEngine
from jaxpt.training.metrics import read
from tests.evaluation import scored_runs

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return scored_runs.make(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def alone(setting, tmp_path_factory):
    """The run without a follower, on one device as the others."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert start("train", setting, workdir).wait(timeout=600) == 0
    return workdir


def start(what, folder, workdir, *more):
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tests.evaluation.run_followed", what, str(folder), str(workdir), *more]
    return subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def losses(workdir):
    return [r["train/loss"] for r in read(workdir / "metrics.jsonl") if "train/loss" in r]


def test_a_run_and_its_follower_at_once(setting, alone, tmp_path):
    workdir = tmp_path / "run"
    trainer, follower = start("slowly", setting, workdir), start("follow", setting, workdir, "0")
    try:
        assert trainer.wait(timeout=600) == 0
        scored_meanwhile = len(read(workdir / "scores/sums/scores.jsonl"))
        assert follower.wait(timeout=600) == 0
    finally:
        trainer.kill()
        follower.kill()
    records = read(workdir / "scores/sums/scores.jsonl")
    assert scored_meanwhile >= 3
    assert [r["step"] for r in records] == list(range(1, 23))  # all, in order, once: none went before it was scored
    assert losses(workdir) == losses(alone)
    assert read_run(workdir, 22)["digests"] == read_run(alone, 22)["digests"]
    there = finished_steps(workdir)
    for first, last in ((1, 14), (15, 22)):
        of_stage = [r for r in records if first <= r["step"] <= last]
        best = max(of_stage, key=lambda r: (r["eval/sums/sums/acc_norm"], -r["step"]))
        assert best["step"] in there
    assert len(there) < 22  # those that were scored and are not the best went


def test_a_follower_that_was_killed_goes_on_where_it_was(setting, alone, monkeypatch):
    for step in finished_steps(alone)[3:-1]:
        shutil.rmtree(alone / "checkpoints" / str(step))
    killed = start("follow", setting, alone, "17")  # twelve answers a checkpoint: in the second one
    assert killed.wait(timeout=600) == -signal.SIGKILL
    done = read(alone / "scores/sums/scores.jsonl")
    assert [r["step"] for r in done] == finished_steps(alone)[:1]
    assert len(answers(alone)) == 5
    asked, score = [], InferenceEngine.score

    def counted(self, pairs, *rest):
        asked.append(len(pairs))
        return score(self, pairs, *rest)

    monkeypatch.setattr(InferenceEngine, "score", counted)
    assert cli.main(["eval", f"--follow={alone}"]) == 0
    steps = finished_steps(alone)
    assert asked == [7, *[12] * (len(steps) - 2)]
    assert [r["step"] for r in read(alone / "scores/sums/scores.jsonl")] == steps
    assert not answers(alone)
    assert {k.entry for k, _ in marks.best_of(alone, steps)} == {"sums"}


def answers(workdir):
    return [line for file in (workdir / "scores/sums/answers").iterdir() for line in file.read_text().splitlines()]
