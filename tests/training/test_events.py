"""Events between two steps: when they are due, what they see, and what they may change in the run."""

import json

import pytest

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.config.duration import parse
from jaxpt.errors import JaxptError
from jaxpt.training.events import Changes, Due, Event
from jaxpt.training.interrupt import EXIT_PREEMPTED
from jaxpt.training.metrics import read
from tests.training import run_made, run_packed
from tests.training.test_run_plan import plan

SHORT = [{**run_made.STAGE, "duration": "4 steps"}, {**run_made.STAGE, "duration": "2 steps"}]


class Watch(Event):
    """Writes down what it sees; returns what `changes` says of the step."""

    name = "watch"

    def __init__(self, due, changes=None, after_checkpoint=False):
        self.due, self.changes, self.after_checkpoint = due, changes or {}, after_checkpoint
        self.seen, self.saved = {}, {}

    def act(self, view):
        self.seen[view.step] = view.metrics | {"tokens": view.tokens, "stage": view.stage.config.name}
        self.saved[view.step] = finished_steps(view.workdir)
        return self.changes.get(view.step, Changes())


def every(text):
    return Due(parse(text, "every"))


def go(workdir, *events, **more):
    lines = []
    kinds = {"stages": SHORT, "evaluate": None, "checkpoint": {"every": "100 steps"}, **more}
    return run_made.start(workdir, events=events, log=lines.append, **kinds), lines


def events_of(workdir):
    return [(e["event"], e["step"]) for e in map(json.loads, (workdir / "events.jsonl").read_text().splitlines())]


@pytest.mark.parametrize(
    ("due", "steps"),
    [
        (Due(), []),
        (Due(first=True), [0]),
        (Due(last=True), [30]),
        (Due(stage_ends=True), [20, 30]),
        (Due(parse("10 steps", "")), [10, 20, 30]),
        (Due(parse("1280 tokens", ""), first=True), [0, 10, 20, 30]),
        (Due(parse("7 steps", ""), stage_ends=True, last=True), [7, 14, 20, 21, 28, 30]),
    ],
)
def test_an_event_is_due_where_it_says(due, steps):
    run = plan()
    assert [step for step in range(31) if due.at(run, step)] == steps


def test_an_event_sees_the_run_as_it_is_and_its_values_are_logged(tmp_path):
    watch = Watch(every("2 steps"), {2: Changes({"watch/three": 3.0})})
    assert go(tmp_path / "run", watch)[0] == 0
    records = read(tmp_path / "run" / "metrics.jsonl")
    losses = {r["step"]: r["train/loss"] for r in records if "train/loss" in r}
    assert {step: seen["train/loss"] for step, seen in watch.seen.items()} == {n: losses[n] for n in (2, 4, 6)}
    assert [(seen["tokens"], seen["stage"]) for seen in watch.seen.values()] == [
        (256, "stage0"),
        (512, "stage0"),
        (768, "stage1"),
    ]
    assert [r for r in records if "watch/three" in r] == [{"step": 2, "tokens": 256, "watch/three": 3.0}]


def test_a_checkpoint_that_an_event_asks_for_is_of_that_step(tmp_path):
    more = {"checkpoint": {"every": "100 steps", "keep": 9}}
    assert go(tmp_path / "run", Watch(every("1 steps"), {3: Changes(save=True)}), **more)[0] == 0
    assert finished_steps(tmp_path / "run") == [3, 4, 6]


@pytest.mark.parametrize("after_checkpoint", [False, True])
def test_a_stop_that_an_event_asks_for_is_saved_and_gone_on_from(tmp_path, after_checkpoint):
    workdir = tmp_path / "run"
    stop = Watch(every("3 steps"), {3: Changes(stop="the loss is good enough")}, after_checkpoint)
    follower = Watch(every("3 steps"), after_checkpoint=True)
    code, lines = go(workdir, stop, follower)
    assert code == EXIT_PREEMPTED
    assert lines[-1] == "the loss is good enough: saved at step 3; start again with the same --workdir to go on"
    assert finished_steps(workdir) == [3]
    assert ("preempted", 3) in events_of(workdir)
    assert not follower.seen, "what follows the checkpoint acts when the run goes on"
    assert go(workdir, Watch(every("3 steps")), follower)[0] == 0
    assert list(follower.seen) == [3, 6]
    assert run_made.start(tmp_path / "whole", stages=SHORT, evaluate=None, log=lines.append) == 0
    assert read_run(workdir, 6)["digests"] == read_run(tmp_path / "whole", 6)["digests"]


def test_what_is_after_the_checkpoint_finds_it_on_disk_and_the_rest_does_not(tmp_path):
    before, after = Watch(every("2 steps")), Watch(every("2 steps"), after_checkpoint=True)
    assert go(tmp_path / "run", after, before)[0] == 0
    assert all(step in saved for step, saved in after.saved.items())
    assert not any(step in saved for step, saved in before.saved.items())
    kinds = ("save", "evaluation begins", "evaluation ends")
    begins = [(kind, step) for kind, step in events_of(tmp_path / "run") if kind in kinds and step]
    assert begins[:3] == [("save", 2), ("evaluation begins", 2), ("evaluation ends", 2)]


def test_weights_that_an_event_returns_are_in_the_checkpoint_of_its_step(tmp_path):
    run_packed.make(tmp_path)
    stage = {"duration": "6 steps", "batch_size": 8, "mixture": {"a": 1.0, "b": 1.0, "c": 1.0}}
    change = Watch(every("3 steps"), {3: Changes(weights={"a": 0.5, "b": 0.5, "c": 0.0})})
    kinds = {"stages": [stage], "log": lambda line: None}
    assert run_packed.start(tmp_path, tmp_path / "run", events=[change], **kinds) == 0
    anchors = read_run(tmp_path / "run", 6)["schedule_log"]["anchors"]
    assert [a["weights"][2] for a in anchors if a["step"] == 3] == [0]
    delivered = [json.loads(line) for line in (tmp_path / "run.0.delivered").read_text().splitlines()]
    sources = {step: {tag for tag, _ in documents} for step, _, documents in delivered}
    assert 2 in set().union(*(sources[step] for step in range(3)))
    assert 2 not in set().union(*(sources[step] for step in range(3, 6)))


def test_weights_may_not_change_behind_the_checkpoint(tmp_path):
    late = Watch(every("2 steps"), {2: Changes(weights={"a": 1.0, "b": 0.0})}, after_checkpoint=True)
    with pytest.raises(JaxptError, match="event watch is after the checkpoint, which would lack the weights"):
        go(tmp_path / "run", late)


def test_the_time_of_events_counts_for_no_step(tmp_path):
    import time

    class Slow(Watch):
        def act(self, view):
            time.sleep(0.3)
            return Changes()

    assert go(tmp_path / "run", Slow(every("1 steps")))[0] == 0
    laps = [r["perf/step_s"] for r in read(tmp_path / "run" / "metrics.jsonl") if "perf/step_s" in r]
    assert sorted(laps)[2] < 0.3
