"""A rollback leaves out exactly the rows that it says, wherever it is killed, and counts them as used."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.errors import JaxptError
from jaxpt.training import recovering, rollbacks
from jaxpt.training.events import Changes, Event
from jaxpt.training.metrics import read
from jaxpt.training.rollbacks import PassedOver
from tests.training import run_packed, spiky

ROOT = Path(__file__).parents[2]
ROLLBACK = {
    "guard": {"name": "finite", "window": 8},
    "averaging": {"name": "ema", "decay": 0.9},
    "recovery": {"name": "rollback", "spikes": 2, "within": 4, "before": 2, "after": 1},
    "metrics": {"every": 4, "tensorboard": False},
    # a crash here is an exception: a thread that still writes would outlive it, as it does not outlive a process
    "checkpoint": {"every": "5 steps", "keep": 2, "asynchronous": False},
}
IN_THE_BACKGROUND = {"every": "5 steps", "keep": 2}
SPIKE, NOT_FINITE = 16, 18  # steps from 0: together trouble, for which the steps 14 to 19 are passed over
NOTED = [PassedOver(14, 20, 10, 19, "2 spikes in the steps 17 to 19")]


class Crash(Exception):
    """The end of a process."""


class CrashAt(Event):
    """Ends the run after a step, once rolled back."""

    def __init__(self, step, workdir):
        self.step, self.workdir = step, workdir

    def is_due(self, view):
        return view.step == self.step and bool(rollbacks.read(self.workdir))

    def act(self, view):
        raise Crash


def run(workdir, **changes):
    return spiky.run(workdir, **{"spikes": [SPIKE], "nans": [NOT_FINITE], **ROLLBACK, **changes})


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that passes over the steps from its beginning on: nothing in it is rolled back."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    delivered = []
    assert run(workdir, events=[StopAtFirst()], delivered=delivered) == 75
    for noted in NOTED:
        rollbacks.append(workdir, noted)
    assert run(workdir, delivered=delivered) == 0
    assert sorted(set(delivered)) == [s for s in range(30) if not 14 <= s < 20]
    return workdir


class StopAtFirst(Event):
    """Stops the run after its first step."""

    def is_due(self, view):
        return view.step == 1

    def act(self, view):
        return Changes(stop="a test")


def check_as_straight(workdir, straight):
    """The run ended with the bits of the one that was never rolled back, and says what it left out."""
    noted = rollbacks.read(workdir)
    assert [(r.first, r.stop, r.checkpoint) for r in noted] == [(14, 20, 10)]
    one, other = spiky.end(workdir), spiky.end(straight)
    assert one["step"] == other["step"] == 30
    assert one["digests"] == other["digests"]
    assert one["passed"] == other["passed"] == [[14, 20]]
    assert one["tokens"] == 30 * 128
    assert one["trained_tokens"] == 24 * 128
    assert one["ledger"] == other["ledger"]
    records = read(workdir / "metrics.jsonl")
    assert [r["step"] for r in records if "stage" in r] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert [r["step"] for r in records if "train/loss" in r] == [4, 8, 12, 24, 28, 30]


def test_a_sustained_spike_is_left_out_with_its_margins(straight, tmp_path):
    lines, delivered = [], []
    assert run(tmp_path, log=lines.append, delivered=delivered) == 0
    check_as_straight(tmp_path, straight)
    assert any("going on from checkpoint 10, the steps 15 to 20 are passed over" in line for line in lines)
    assert (tmp_path / "checkpoints" / "15.set-aside").is_dir()
    turns = [i for i in range(1, len(delivered)) if delivered[i] != delivered[i - 1] + 1]
    assert [delivered[i] for i in turns] == [10, 20]  # back to 10, and from 13 on to 20
    events = [e for e in read(tmp_path / "events.jsonl") if e["event"] == "rollback"]
    assert [(e["first"], e["stop"], e["checkpoint"]) for e in events] == [(14, 20, 10)]


def test_without_a_rollback_the_run_ends_elsewhere(straight, tmp_path):
    assert run(tmp_path, recovery={"name": "stop"}) == 0
    assert spiky.end(tmp_path)["digests"] != spiky.end(straight)["digests"]
    assert rollbacks.read(tmp_path) == ()


def before_the_file(workdir, monkeypatch):
    def crash(folder, rollback):
        (folder / rollbacks.NAME).write_bytes(b'{"first": 14, "sto')  # cut short: never obeyed
        raise Crash

    monkeypatch.setattr(recovering.rollbacks, "append", crash)


def before_the_restore(workdir, monkeypatch):
    real = rollbacks.append

    def crash(folder, rollback):
        real(folder, rollback)
        raise Crash

    monkeypatch.setattr(recovering.rollbacks, "append", crash)


POINTS = {
    "before the file is synced": before_the_file,
    "before the restore": before_the_restore,
    "in the replay": 12,
    "in what is passed over": 17,
    "after it": 21,
}


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_ends_at_any_point_of_a_rollback_goes_on_with_it(straight, tmp_path, monkeypatch, point):
    where = POINTS[point]
    events = [CrashAt(where, tmp_path)] if isinstance(where, int) else []
    if not events:
        where(tmp_path, monkeypatch)
    with pytest.raises(Crash):
        run(tmp_path, events=events)
    monkeypatch.undo()
    assert run(tmp_path) == 0
    check_as_straight(tmp_path, straight)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_is_killed_at_any_point_of_a_rollback_goes_on_with_it(straight, tmp_path, point):
    command = [sys.executable, "-m", "tests.training.run_rolled_back", str(tmp_path), point]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert run(tmp_path, checkpoint=IN_THE_BACKGROUND) == 0
    check_as_straight(tmp_path, straight)


def test_checkpoints_of_steps_that_are_to_be_passed_over_are_stale(straight, tmp_path):
    steps = finished_steps(straight)
    assert rollbacks.stale(straight, steps, NOTED) == []
    other = [PassedOver(14, 21, 10, 19, "")]
    assert rollbacks.stale(straight, [10, 14, 25, 30], other) == [25, 30]
    assert rollbacks.ranges(
        [PassedOver(8, 12, 0, 0, ""), PassedOver(2, 5, 0, 0, ""), PassedOver(4, 9, 0, 0, "")], 11
    ) == [(2, 11)]


def test_a_file_that_was_lost_is_written_again_from_the_checkpoint(straight, tmp_path):
    assert run(tmp_path) == 0
    (tmp_path / rollbacks.NAME).unlink()
    lines = []
    assert run(tmp_path, log=lines.append) == 0
    assert any("lacks the steps 15 to 20" in line for line in lines)
    assert [(r.first, r.stop) for r in rollbacks.read(tmp_path)] == [(14, 20)]


NAN = {**ROLLBACK, "guard": {"name": "observe"}, "recovery": {**ROLLBACK["recovery"], "before": 0, "after": 0}}


def test_a_nan_is_met_once_and_not_at_every_start(tmp_path):
    """It comes before the first checkpoint, so that the run begins again."""
    command = f"{sys.executable} -c \"import sys, json; json.dump(sys.argv[1:], open(sys.argv[1] + '/called', 'w'))\""
    recovery = {**NAN["recovery"], "command": command}
    lines = []
    assert run(tmp_path, spikes=[], nans=[2], log=lines.append, **{**NAN, "recovery": recovery}) == 0
    assert [(r.first, r.stop, r.checkpoint) for r in rollbacks.read(tmp_path)] == [(2, 3, 0)]
    assert any("going on from the beginning, the steps 3 to 3 are passed over" in line for line in lines)
    assert json.loads((tmp_path / "called").read_text()) == [str(tmp_path), "2", "3", "0"]
    assert spiky.end(tmp_path)["trained_tokens"] == 29 * 128
    assert all(np.isfinite(r.get("train/loss", 0.0)) for r in read(tmp_path / "metrics.jsonl"))
    lines.clear()
    assert run(tmp_path, spikes=[], nans=[2], log=lines.append, **{**NAN, "recovery": recovery}) == 0
    assert "resumed at step 30 of 30" in lines


def test_after_so_many_rollbacks_the_run_stops_and_more_may_be_allowed(tmp_path):
    changes = {**NAN, "recovery": {**NAN["recovery"], "most": 1}}
    with pytest.raises(JaxptError, match=r"step 19 is not finite, and .*rollbacks.jsonl holds 1 rollbacks.*most"):
        run(tmp_path, spikes=[], nans=[12, 18], **changes)
    assert [(r.first, r.stop) for r in rollbacks.read(tmp_path)] == [(12, 13)]
    assert run(tmp_path, spikes=[], nans=[12, 18], **NAN) == 0
    assert read_run(tmp_path, 30)["passed"] == [[12, 13], [18, 19]]
    with pytest.raises(JaxptError, match=r"--from_step=11: .*no such checkpoint"):
        run(tmp_path, from_step=11, **NAN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"guard": {"name": "none"}},
            "name is rollback, which needs a guard.*config.guard.name=observe",
        ),
        ({"recovery": {"name": "rollback", "spikes": 65}}, "config.recovery.spikes is 65, it must be 1 to 64"),
        (
            {"recovery": {"name": "rollback", "within": 2}},
            r"recovery.within is 2, fewer steps than spikes \(3\)",
        ),
        ({"recovery": {"name": "rollback", "before": -1}}, "config.recovery.before is -1, it must be at least 0"),
        ({"recovery": {"name": "rollback", "command": "a 'b"}}, "config.recovery.command is .*No closing quotation"),
        ({"recovery": {"name": "stop", "most": 3}}, "config.recovery.most is not a key; rollback has it"),
    ],
)
def test_a_bad_setting_is_one_line_before_the_first_step(changes, message):
    with pytest.raises(JaxptError, match=message):
        spiky.config_of(**{**ROLLBACK, **changes})


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / rollbacks.NAME).write_text('{"first": 1}\n{"fir')
    with pytest.raises(JaxptError, match=r"rollbacks.jsonl: line 1 is no record of a rollback"):
        rollbacks.read(tmp_path)


@pytest.mark.slow
def test_rows_that_are_passed_over_count_as_used_in_the_ledger_and_the_mixture(tmp_path):
    run_packed.make(tmp_path)
    plain, passing = tmp_path / "plain", tmp_path / "passing"
    assert run_packed.start(tmp_path, plain) == 0
    assert run_packed.start(tmp_path, passing, events=[StopAtFirst()]) == 75
    rollbacks.append(passing, PassedOver(9, 15, 5, 14, "over the end of a stage"))
    assert run_packed.start(tmp_path, passing) == 0
    one, other = spiky.end(plain), spiky.end(passing)
    assert one["ledger"] == other["ledger"]
    assert sum(used["stop"] - used["start"] for used in one["ledger"]) == 12 * 8 + 10 * 4 + 10 * 12
    assert one["tokens"] == other["tokens"] == one["trained_tokens"]
    assert other["trained_tokens"] == one["tokens"] - (3 * 8 + 3 * 4) * run_packed.LENGTH
    assert one["digests"] != other["digests"]
    of = lambda run: {step: rows for step, _, rows in delivered_of(tmp_path, run)}  # noqa: E731
    assert of(passing) == {step: rows for step, rows in of(plain).items() if not 9 <= step < 15}
    last = [
        {k: v for k, v in read(run / "metrics.jsonl")[-1].items() if k.startswith("data/")} for run in (plain, passing)
    ]
    assert last[0] == last[1]
    assert {k.split("/")[1] for k in last[0]} == {"wanted", "share", "tokens", "deviation"}


def delivered_of(folder, run):
    """What a run was given: step, first row, documents."""
    return [json.loads(line) for line in (folder / f"{run.name}.0.delivered").read_text().splitlines()]
