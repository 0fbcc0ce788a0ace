"""A run over two processes that scores itself has the scores of one process, and one results folder."""

import json

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import cli
from jaxpt.training.metrics import read
from tests.evaluation import scored_runs
from tests.training.processes import finish, free_address, kill_all, start_command

pytestmark = pytest.mark.slow


def scores(workdir):
    records = [r for r in read(workdir / "metrics.jsonl") if "eval/sums/sums/acc" in r]
    return {r["step"]: {k: v for k, v in r.items() if k.startswith("eval/")} for r in records}


def test_two_processes_give_the_scores_of_one(tmp_path):
    folder, address = scored_runs.make(tmp_path), free_address()
    alone, both = tmp_path / "alone", tmp_path / "both"
    short = ["--config.stages[0].duration=2 steps", "--config.stages[1].duration=1 steps"]
    asked = {"keep_best": "sums/acc_norm"}
    flags = scored_runs.flags(folder, both, *short, **asked, after=True)
    hosts = ["train", *flags, f"--coordinator={address}", "--processes=2"]
    try:
        started = [start_command(*hosts, f"--process_id={i}") for i in range(2)]
        assert cli.main(["train", *scored_runs.flags(folder, alone, *short, **asked, stage_ends=True)]) == 0
        finish(started)
    finally:
        kill_all()
    (step, values), wanted = scores(both).popitem(), scores(alone)
    assert step == 3
    assert values == pytest.approx(wanted[3], rel=1e-5)
    assert values != pytest.approx(wanted[2], rel=1e-5)  # those of another step: it can fail
    (kept,) = json.loads((both / "scores/sums/kept.json").read_text())["scored"]
    assert kept["step"] == 3
    assert len(list((both / "scores/sums/3").glob("results_*.json"))) == 1  # one of the two writes
    assert not (both / "scores/sums/answers").exists()
