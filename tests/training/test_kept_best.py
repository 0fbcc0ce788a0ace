"""The best checkpoint of each stage by an evaluation's value stays, and has a name."""

import json
from dataclasses import dataclass

import pytest

from jaxpt import api
from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.checkpoints.marks import KeptByScore
from jaxpt.checkpoints.named import named_checkpoint
from jaxpt.errors import JaxptError
from jaxpt.evaluation.evaluation import BestBy, Evaluation
from jaxpt.training.branching import parse_place
from jaxpt.training.evaluating import Evaluating
from jaxpt.training.events import Changes, Due, Event
from jaxpt.training.metrics import read
from tests.training import run_made

STAGES = [{**stage, "duration": f"{n} steps"} for stage, n in zip(run_made.CONFIG["stages"], (6, 4))]
VALUES = {2: 0.1, 3: 0.9, 4: 0.9, 5: 0.3, 6: 0.2, 7: 0.1, 8: 0.5, 9: 0.4, 10: 0.3}


@dataclass(frozen=True)
class Scripted(Evaluation):
    """Values by step; what fails at a step raises, and the run goes on."""

    failure_stops = False
    fails_at: int | None = None
    keeps: bool = True

    def best_by(self):
        return BestBy("value", True) if self.keeps else None

    def prepare(self, setting):
        def measure(step, params):
            if step == self.fails_at:
                raise RuntimeError(f"at {step}")
            return {"value": VALUES[step]}

        return measure


def run(workdir, keeps=True, fails_at=None, more=(), **changes):
    entry = Evaluating("mine", Scripted("1 steps", before=False, keeps=keeps, fails_at=fails_at))
    entry.is_due = lambda view: view.step > 1 and Evaluating.is_due(entry, view)
    lines = []
    given = {"checkpoint": {"every": "1 steps", "keep": 2}, "stages": STAGES, **changes}
    code = run_made.start(workdir, events=[*more, entry], evaluate=None, log=lines.append, **given)
    assert code in (0, 75)
    return lines


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("kept") / "run"
    run(workdir)
    return workdir


def test_the_best_of_each_stage_stays(done):
    assert finished_steps(done) == [3, 6, 8, 9, 10]  # 3: best of the first stage; 6: its end; 8: best of the second
    (kept,) = marks.read(done)
    assert [(one.step, one.stage) for one in kept.scored if one.step in (3, 8)] == [(3, "stage0"), (8, "stage1")]
    assert kept.scored[0].digest == marks.digest_of(read_run(done, 3))


def test_without_it_the_same_run_keeps_none_of_them(tmp_path):
    run(tmp_path / "run", keeps=False)
    assert finished_steps(tmp_path / "run") == [6, 9, 10]
    with pytest.raises(JaxptError, match=r"was picked out by a score; train it with keep_best .* --follow=.*run"):
        named_checkpoint(f"{tmp_path / 'run'}@best")


def test_it_has_a_name_for_whoever_loads_a_run(done):
    best = done / "checkpoints/8"
    for name in ("best", "best/mine", "best/stage1", "best/mine/stage1", "8"):
        assert named_checkpoint(f"{done}@{name}") == best
    assert named_checkpoint(f"{done}@best/stage0") == done / "checkpoints/3"
    assert api.load(f"{done}@best").lineage[-1]["steps"] == 8
    assert api.kind_of(f"{done}@best") == "checkpoint"
    assert parse_place(f"{done}@best/stage0") == (done, 3)
    with pytest.raises(JaxptError, match=r"@best/nowhere names none of them; give one of .*run@best/mine/stage0"):
        named_checkpoint(f"{done}@best/nowhere")
    marks.write(done, KeptByScore("other", "value", True, 0, marks.read(done)[0].scored))
    try:
        with pytest.raises(JaxptError, match="@best names more than one entry; give one of"):
            named_checkpoint(f"{done}@best")
        assert named_checkpoint(f"{done}@best/other") == best
    finally:
        (done / "scores/other/kept.json").unlink()


class Stop(Event):
    due = Due()

    def __init__(self, at):
        self._at = at

    def is_due(self, view):
        return view.step == self._at

    def act(self, view):
        return Changes(stop="a test")


def test_it_stays_when_the_run_is_stopped_and_goes_on(done, tmp_path):
    workdir = tmp_path / "run"
    run(workdir, more=[Stop(7)])
    assert 3 in finished_steps(workdir)
    run(workdir)
    assert finished_steps(workdir) == finished_steps(done)
    losses = [[r["train/loss"] for r in read(w / "metrics.jsonl") if "train/loss" in r] for w in (done, workdir)]
    assert losses[0] == losses[1]


def test_a_best_one_that_the_run_went_back_behind_counts_no_more(done, tmp_path):
    workdir = tmp_path / "run"
    run(workdir)
    other = [STAGES[0], {**STAGES[1], "learning_rate": 5e-3}]
    run(workdir, from_step=6, stages=other)  # 8 is trained anew, scored anew
    (kept,) = marks.read(workdir)
    again = {one.step: one.digest for one in kept.scored}
    before = {one.step: one.digest for one in marks.read(done)[0].scored}
    assert again[3] == before[3]
    assert again[8] != before[8]
    assert finished_steps(workdir) == [3, 6, 8, 9, 10]


def test_checkpoints_wait_for_a_follower(tmp_path):
    workdir = tmp_path / "run"

    class Follows(Event):
        """A follower that says at step 1 that it will come, and scores all that are there at step 9."""

        due = Due()

        def is_due(self, view):
            return view.step in (1, 9)

        def act(self, view):
            there = marks.digests_of(workdir, finished_steps(workdir)) if view.step == 9 else {}
            stage = lambda s: "stage0" if s <= 6 else "stage1"  # noqa: E731
            scored = [marks.ScoredCheckpoint(s, stage(s), d, 1.0 / s) for s, d in there.items()]
            marks.write(workdir, KeptByScore("late", "value", True, 4, tuple(scored)))
            return Changes()

    run(workdir, keeps=False, more=[Follows()])
    # after step 8 the newest four waited, 5 to 8; 5 and 7 then are the best of their stages, 6 is an end
    assert finished_steps(workdir) == [5, 6, 7, 9, 10]


def test_a_broken_mark_removes_nothing(tmp_path):
    workdir = tmp_path / "run"

    class Break(Event):
        def is_due(self, view):
            return view.step == 3

        def act(self, view):
            (workdir / "scores/x").mkdir(parents=True)
            (workdir / "scores/x/kept.json").write_text(json.dumps({"metric": "m"}))
            return Changes()

    run(workdir, keeps=False, more=[Break()])
    assert finished_steps(workdir)[-6:] == [5, 6, 7, 8, 9, 10]


def test_an_evaluation_that_fails_does_not_stop_the_run(done, tmp_path):
    lines = run(tmp_path / "run", fails_at=4)
    assert "step 4: mine failed (RuntimeError: at 4); the run goes on" in lines
    records = read(tmp_path / "run/metrics.jsonl")
    assert [r["step"] for r in records if "eval/mine/value" in r] == [2, 3, 5, 6, 7, 8, 9, 10]
    (event,) = [e for e in read(tmp_path / "run/events.jsonl") if e["event"] == "evaluation failed"]
    assert (event["step"], event["entry"], event["reason"]) == (4, "mine", "RuntimeError: at 4")
    assert finished_steps(tmp_path / "run") == finished_steps(done)


def test_at_stage_ends_alone(tmp_path):
    entry = Evaluating("mine", Scripted(before=False, after=False, stage_ends=True))
    run_made.start(
        tmp_path / "run", events=[entry], evaluate=None, stages=STAGES, checkpoint={"every": "100 steps"}, log=print
    )
    assert [r["step"] for r in read(tmp_path / "run/metrics.jsonl") if "eval/mine/value" in r] == [6, 10]
