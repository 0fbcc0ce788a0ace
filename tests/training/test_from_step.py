"""`--from_step=N` goes on from an earlier checkpoint: what came after it is set aside, never removed."""

import json
from pathlib import Path

import pytest

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.errors import JaxptError
from jaxpt.training.metrics import read
from tests.training import checkpoint_folders, run_made
from tests.training.checkpoint_folders import FIRST_STAGE, contents, copy, restore

KEEP = {"every": "5 steps", "keep": 9}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert run_made.start(workdir, stages=FIRST_STAGE, checkpoint=KEEP, log=lambda line: None) == 0
    return workdir


def go(workdir, step, rate=1e-2, stages=FIRST_STAGE):
    """Runs the first stage from a checkpoint; returns what was printed."""
    lines = []
    changes = {"stages": stages, "checkpoint": KEEP, "optimizer": {"learning_rate": rate}}
    assert run_made.start(workdir, log=lines.append, from_step=step, **changes) == 0
    return lines


def names(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def losses(workdir):
    return {r["step"]: r["train/loss"] for r in read(workdir / "metrics.jsonl") if "train/loss" in r}


def test_later_checkpoints_and_metrics_are_set_aside_and_the_run_goes_on(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    before, lines_before = losses(workdir), (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    saved = (workdir / "checkpoints" / "15" / "run" / "metadata").read_bytes()
    lines = go(workdir, 10, rate=1e-3)
    assert any(
        "set aside in" in line and "15.set-aside, 20.set-aside; remove those that are not needed" in line
        for line in lines
    )
    assert "resumed at step 10 of 20" in lines
    assert finished_steps(workdir) == [5, 10, 15, 20]
    assert (workdir / "checkpoints" / "15.set-aside" / "run" / "metadata").read_bytes() == saved
    now = losses(workdir)
    assert list(now) == list(before) == list(range(1, 21))
    assert {s: v for s, v in now.items() if s <= 10} == {s: v for s, v in before.items() if s <= 10}
    assert now[20] != before[20]
    cut = [line for line in lines_before if json.loads(line)["step"] > 10]
    assert (workdir / "metrics.cut.jsonl").read_text() == "".join(cut)
    events = read(workdir / "events.jsonl")
    assert [e["checkpoints"] for e in events if e["event"] == "set aside"] == [["20.set-aside", "15.set-aside"]]


def test_going_back_twice_keeps_both(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    go(workdir, 10, rate=1e-3)
    go(workdir, 10, rate=1e-4)
    names = {p.name for p in (workdir / "checkpoints").iterdir()}
    assert {"15.set-aside", "20.set-aside", "15.set-aside-2", "20.set-aside-2"} <= names
    assert finished_steps(workdir) == [5, 10, 15, 20]


def test_the_same_command_again_goes_on_from_what_came_of_it(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    go(workdir, 10, rate=1e-3)
    lines = go(workdir, 10, rate=1e-3)  # as a scheduler would after a preemption
    assert any("checkpoint 20 came from --from_step=10 with this config: going on from it" in line for line in lines)
    assert "resumed at step 20 of 20" in lines
    assert not (workdir / "checkpoints" / "20.set-aside-2").exists()
    go(workdir, None, rate=1e-4)  # another config goes on at 20, which is the end
    assert read_run(workdir, 20)["went_back"]["step"] == 10


@pytest.mark.parametrize("step", [0, 7, 25, -5])
def test_an_unknown_step_names_what_is_there(trained, tmp_path, step):
    workdir = copy(trained, tmp_path / "run")
    before = contents(workdir)
    with pytest.raises(
        JaxptError, match=rf"--from_step={step}: .*checkpoints has no such checkpoint; it has 5, 10, 15, 20"
    ):
        restore(workdir, step)
    assert contents(workdir) == before
    with pytest.raises(JaxptError, match="has no such checkpoint; it has none"):
        restore(tmp_path / "new", 5)


def test_the_newest_step_changes_nothing(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    assert restore(workdir, 20) == (20, [])
    assert finished_steps(workdir) == [5, 10, 15, 20]


def test_a_damaged_step_is_refused_and_nothing_is_renamed(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    file = workdir / "checkpoints" / "10" / "run" / "metadata"
    file.write_text(file.read_text()[:100])
    before = contents(workdir)
    with pytest.raises(JaxptError, match=r"--from_step=10: .*10 is damaged .*; take another of 5, 15, 20"):
        restore(workdir, 10)
    assert contents(workdir) == before


def test_a_config_that_is_refused_sets_nothing_aside(trained, tmp_path, monkeypatch):
    workdir = copy(trained, tmp_path / "run")
    before = names(workdir), (workdir / "metrics.jsonl").read_bytes()

    def refuse(*args):
        raise JaxptError("config.sources.a: not the source that this run began with")

    monkeypatch.setattr(run_made, "MadeFeed", refuse)
    with pytest.raises(JaxptError, match="not the source"):
        go(workdir, 10)
    assert (names(workdir), (workdir / "metrics.jsonl").read_bytes()) == before


def test_where_only_set_aside_ones_are_left_a_start_is_refused(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    for step in (5, 10, 15, 20):
        Path(workdir / "checkpoints" / str(step)).rename(workdir / "checkpoints" / f"{step}.set-aside")
    with pytest.raises(JaxptError, match=r"no whole checkpoint is left beside 10.set-aside, 15.set-aside"):
        restore(workdir)


def test_the_losses_are_those_of_a_run_that_never_went_further(trained, tmp_path):
    once = checkpoint_folders.copy(trained, tmp_path / "once")
    for step in (15, 20):
        (once / "checkpoints" / str(step)).rename(tmp_path / str(step))
    go(once, None, rate=1e-3)
    back = copy(trained, tmp_path / "back")
    go(back, 10, rate=1e-3)
    assert losses(back) == losses(once)
    assert read_run(back, 20)["digests"] == read_run(once, 20)["digests"]
