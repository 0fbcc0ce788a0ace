"""A step whose batch has no target changes nothing, bit for bit, and says so; targets are counted."""

import json
import time

import jax
import numpy as np
import pytest

from jaxpt.training import loop
from jaxpt.training.events import Changes, Due, Event
from jaxpt.training.metrics import read
from jaxpt.training.targets import SHOWN, StepsWithoutTargets
from tests.training import run_made
from tests.training.feed import MadeFeed

EMPTY = 3  # the step, counted from 0, without targets
STAGE = {**run_made.STAGE, "duration": "6 steps", "microbatches": 2}


class States(Event):
    """Keeps the state after each step."""

    def __init__(self):
        self.due, self.kept = Due(first=True), {}

    def is_due(self, view):
        return True

    def act(self, view):
        self.kept[view.step] = jax.device_get((view.state.params, view.state.opt_state))
        return Changes()


class Lines(list):
    """What a run prints, and what it leaves out of the time left."""

    def __init__(self):
        self.left_out, self.began = [], time.perf_counter()

    @property
    def seconds(self):
        return time.perf_counter() - self.began

    def append(self, line):
        (super().append if isinstance(line, str) else self.left_out.append)(line)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """States by step, records, printed lines and folder of a run with one empty batch and one with a single target."""
    batch = MadeFeed.batch

    def thinned(self, step, count, length):
        out = batch(self, step, count, length)
        if step >= EMPTY:
            out["loss_weights"] = np.zeros_like(out["loss_weights"])
        if step > EMPTY:
            out["loss_weights"][1, 2] = 1.0
        return out

    workdir, states, printed = tmp_path_factory.mktemp("targets") / "run", States(), Lines()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MadeFeed, "batch", thinned)
        patch.setattr(loop, "leave_out", lambda bar, units, seconds: printed.append((bar.n, units, seconds)))
        assert run_made.start(workdir, stages=[STAGE], events=[states], evaluate=None, log=printed.append) == 0
    records = {r["step"]: r for r in read(workdir / "metrics.jsonl") if "train/targets" in r}
    return states.kept, records, printed, workdir


def test_a_step_without_targets_changes_nothing_bit_for_bit(run):
    states = run[0]
    assert same(states[EMPTY], states[EMPTY + 1])
    assert not same(states[EMPTY - 1], states[EMPTY])  # an ordinary step
    assert not same(states[EMPTY + 1], states[EMPTY + 2])  # one target is enough, in one of two microbatches


def test_targets_are_counted_and_a_step_without_them_has_no_loss(run):
    _, records, printed, workdir = run
    assert [records[step]["train/targets"] for step in range(1, 7)] == [128, 128, 128, 0, 1, 1]
    assert [step for step in range(1, 7) if "train/loss" not in records[step]] == [EMPTY + 1]
    assert [line for line in printed if "no target" in line] == [
        "step 4: its batch has no target (all loss weights are 0), so that it changes nothing"
    ]
    events = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "no targets"] == [4]


def test_schedules_go_on_through_a_step_without_targets(run):
    rates = [run[1][step]["optim/learning_rate"] for step in range(1, 7)]
    assert len(set(rates)) == 6


def test_compilation_and_the_last_losses_are_printed(run):
    printed = run[2]
    begun = printed.index("stage stage0: compiling the train step …")
    assert "stage stage0: compiled, and the first step taken, in " in printed[begun + 1]
    last = run[1][6]
    sources = {name: last[f"train/loss/{name}"] for name in "ab" if f"train/loss/{name}" in last}
    several = f" ({', '.join(f'{n} {v:.4f}' for n, v in sources.items())})" if len(sources) > 1 else ""
    assert printed.count(f"stage stage0 ends at step 6: loss {last['train/loss']:.4f}{several}") == 1


def test_the_time_left_leaves_out_what_the_compilation_took(run):
    ((done, units, seconds),) = run[2].left_out  # once, before the first step is counted
    assert (done, units) == (0, 8 * 16)
    (line,) = (line for line in run[2] if "compiled, and the first step taken" in line)
    assert line.endswith(f" in {seconds:.1f} s")
    assert 0 < seconds < run[2].seconds


def test_many_steps_without_targets_are_not_all_printed():
    lines, noted = [], []

    class Run:
        log = staticmethod(lines.append)

        class metrics:
            event = staticmethod(lambda name, step: noted.append(step))

    steps = StepsWithoutTargets()
    for step in range(30):
        steps.report(Run, step)
    assert len(noted) == 30
    assert len(lines) == SHOWN
    assert lines[-1].endswith("further ones are in events.jsonl only")
