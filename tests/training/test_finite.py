"""A state that is not finite is never saved; the run stops in a line that names the newest finite checkpoint."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.checkpoints import checkpoints as checkpoints_module
from jaxpt.checkpoints import reading, run_item
from jaxpt.checkpoints.checkpoints import Checkpoints, Retention, finished_steps, read_run
from jaxpt.errors import JaxptError
from jaxpt.training import program as programs
from jaxpt.training import step_records
from jaxpt.training.metrics import read
from jaxpt.training.state import abstract_state, new_state
from tests.training import run_made
from tests.training.checkpoint_folders import program, restore
from tests.training.processes import free_address, start

# A rate that is sound for 13 steps and then makes parameters of 1e30 and more.
EXPLODES = {
    **run_made.CONFIG["stages"][0],
    "duration": "30 steps",
    "schedule": {
        "name": "segments",
        "segments": [
            {"shape": "constant", "duration": "13 steps", "end": 1.0},
            {"shape": "linear", "duration": "2 steps", "end": 1e38},
            {"shape": "constant", "duration": "rest", "end": 1e38},
        ],
    },
}
SOUND = {**EXPLODES, "schedule": {"name": "constant"}}
SELDOM = {"metrics": {"every": 50, "tensorboard": False}, "evaluate": None}


def strict(path):
    """The records, by a parser that takes no NaN."""

    def refuse(word):
        raise AssertionError(f"{path} holds a bare {word}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def is_finite(workdir, step):
    plan, layout, optimizer = program()
    abstract = abstract_state(plan.model, optimizer, layout).to_items()
    state = reading.read_arrays(workdir / "checkpoints" / str(step), abstract)
    return all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_a_rate_that_explodes_costs_no_good_checkpoint_and_the_run_goes_on_from_there(tmp_path):
    with pytest.raises(JaxptError) as error:
        run_made.start(tmp_path, stages=[EXPLODES], **SELDOM)
    line = str(error.value)
    assert "\n" not in line
    assert "at step 15 is" in line
    assert "the newest finite checkpoint is 10: start again with --from_step=10" in line
    assert finished_steps(tmp_path) == [5, 10]
    assert all(is_finite(tmp_path, step) for step in (5, 10))
    assert all(read_run(tmp_path, step)["finite"] for step in (5, 10))
    with pytest.raises(JaxptError, match="the newest finite checkpoint is 10"):  # the same command again: the same line
        run_made.start(tmp_path, stages=[EXPLODES], **SELDOM)
    assert finished_steps(tmp_path) == [5, 10]
    lines = []
    assert run_made.start(tmp_path, stages=[SOUND], log=lines.append, from_step=10, **SELDOM) == 0
    assert "resumed at step 10 of 30" in lines
    assert finished_steps(tmp_path) == [25, 30]
    assert is_finite(tmp_path, 30)
    for name in ("metrics.jsonl", "events.jsonl"):
        strict(tmp_path / name)


def unchecked(monkeypatch):
    """No step looks at the values that it logs."""
    monkeypatch.setattr(step_records, "check_finite", lambda step, values, checkpoints: None)


def test_the_state_is_looked_at_where_no_value_of_the_step_is(tmp_path, monkeypatch):
    unchecked(monkeypatch)
    with pytest.raises(JaxptError, match=r"step 15 is not saved, its state holds NaN .*\(params/.*checkpoint is 10"):
        run_made.start(tmp_path, stages=[EXPLODES], **SELDOM)
    assert finished_steps(tmp_path) == [5, 10]


def with_values(monkeypatch, at, **odd):
    """Every compiled step reports `odd` values after step `at`."""
    real = programs.make_step

    def make_step(*args):
        step = real(*args)

        def run(state, batch, rate):
            state, values = step(state, batch, rate)
            run.steps += 1
            return state, {**values, **odd} if run.steps == at else values

        run.steps, run._cache_size = 0, step._cache_size
        return run

    monkeypatch.setattr(programs, "make_step", make_step)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["train/grad_norm", "train/z_loss", "train/loss", "source_nll"])
def test_any_logged_value_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, name, value):
    odd = jnp.array([value, 1.0]) if name == "source_nll" else jnp.float32(value)
    with_values(monkeypatch, 12, **{name: odd})
    named = {"train/loss": "the loss", "source_nll": "train/loss/a"}.get(name, name)
    with pytest.raises(JaxptError, match=f"{named} at step 12 is {value}; the newest finite checkpoint is 10"):
        run_made.start(tmp_path)
    logged = named if named != "the loss" else name
    assert strict(tmp_path / "metrics.jsonl")[-1][logged] is None
    assert strict(tmp_path / "metrics.jsonl")[-1]["not_finite"] == {logged: repr(float(value))}
    assert repr(read(tmp_path / "metrics.jsonl")[-1][logged]) == repr(float(value))


def test_a_value_that_is_not_logged_stops_the_run_before_its_step_is_saved(tmp_path, monkeypatch):
    with_values(monkeypatch, 15, **{"train/grad_norm": jnp.float32(np.nan)})
    with pytest.raises(JaxptError, match="train/grad_norm at step 15 is nan; the newest finite checkpoint is 10"):
        run_made.start(tmp_path, **SELDOM)
    assert finished_steps(tmp_path) == [5, 10]


def state_of_a_run(tmp_path):
    plan, layout, optimizer = program()
    params = jax.tree.map(lambda s: jnp.ones(s.shape), abstract_state(plan.model, optimizer, layout).params)
    checkpoints = Checkpoints(tmp_path, Retention(1))
    return checkpoints, new_state(layout, optimizer, params).to_items()


RUN = {"tokens": 0, "model": {}}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_infinite_second_moment_beside_finite_parameters_is_not_saved(tmp_path, value):
    checkpoints, state = state_of_a_run(tmp_path)
    checkpoints.save(1, state, RUN)
    moments = state["opt_state"]["nu"]
    moments["blocks"]["dense"]["gate"] = moments["blocks"]["dense"]["gate"].at[1, 3, 2].set(value)
    with pytest.raises(
        JaxptError, match=r"step 2 is not saved.*opt_state/nu/blocks/dense/gate, layer 1\).* is 1: start"
    ):
        checkpoints.save(2, state, RUN)
    checkpoints.close()
    assert finished_steps(tmp_path) == [1]


def test_the_advice_waits_for_the_checkpoint_that_is_being_written(tmp_path):
    checkpoints, state = state_of_a_run(tmp_path)
    checkpoints.save(1, state, RUN)
    assert checkpoints.newest_finite() == 1
    assert finished_steps(tmp_path) == [1]


def test_scalars_are_state_too():
    state = {"params": {"a": jnp.ones(2)}, "opt_state": {"count": jnp.int32(3), "scale": jnp.float32(np.inf)}}
    assert reading.scan_state(state).not_finite == ["opt_state/scale"]
    assert reading.scan_state({**state, "opt_state": {"count": jnp.int32(3)}}).not_finite == []


def of_an_earlier_version(monkeypatch):
    """Saves as af7ccdc did: whatever the values, without a digest of the run item."""
    real = reading.scan_state
    monkeypatch.setattr(checkpoints_module, "scan_state", lambda s: reading.Scan(real(s).digests, []))
    plain = lambda run: {k: v for k, v in run.items() if k not in ("finite", "went_back")}  # noqa: E731
    monkeypatch.setattr(run_item, "seal", plain)
    unchecked(monkeypatch)


def test_an_old_checkpoint_that_is_not_finite_names_the_finite_one_before_it(tmp_path, monkeypatch):
    of_an_earlier_version(monkeypatch)
    assert run_made.start(tmp_path, stages=[EXPLODES], checkpoint={"every": "5 steps", "keep": 9}, **SELDOM) == 0
    monkeypatch.undo()
    assert finished_steps(tmp_path) == [5, 10, 15, 20, 25, 30]
    assert [is_finite(tmp_path, s) for s in (10, 15)] == [True, False]
    for step in (None, 20):
        with pytest.raises(
            JaxptError, match=r"is not usable.*finite checkpoint before it is 10: start.*--from_step=10"
        ):
            restore(tmp_path, step)
    assert finished_steps(tmp_path) == [5, 10, 15, 20, 25, 30]
    step, lines = restore(tmp_path, 10)
    assert step == 10
    assert "15.set-aside, 20.set-aside, 25.set-aside, 30.set-aside" in lines[-1]
    assert finished_steps(tmp_path) == [5, 10]


def test_where_no_old_checkpoint_is_finite_the_line_says_so(tmp_path, monkeypatch):
    of_an_earlier_version(monkeypatch)
    run_made.start(tmp_path, stages=[EXPLODES], checkpoint={"every": "5 steps", "keep": 2}, **SELDOM)
    monkeypatch.undo()
    assert finished_steps(tmp_path) == [25, 30]  # both NaN: this is what the fault cost
    with pytest.raises(JaxptError, match=r"30 is not usable.*none before it is finite: begin in another --workdir"):
        restore(tmp_path)


def test_the_last_finite_checkpoint_is_never_pruned(tmp_path):
    checkpoints, state = state_of_a_run(tmp_path)  # keeps one
    checkpoints.save(1, state, RUN)
    checkpoints.wait()
    checkpoints._finite = {1}
    real, checkpoints._finite = checkpoints._finite, Unaware({1})
    checkpoints.save(2, state, RUN)
    checkpoints.wait()
    assert finished_steps(tmp_path) == [1, 2]  # nothing is known of 2
    checkpoints._finite = real | {2}
    checkpoints.wait()
    assert finished_steps(tmp_path) == [2]
    checkpoints.close()


class Unaware(set):
    """A set that learns nothing."""

    def add(self, item):
        pass


@pytest.mark.slow
def test_two_hosts_stop_alike_and_keep_the_finite_ones(tmp_path):
    kinds = {"coordinator": free_address(), "devices": 4, "stages": [EXPLODES], **SELDOM}
    processes = [start("run_unreadable", tmp_path, {**kinds, "process": i}, devices=2) for i in range(2)]
    printed = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [1, 1], printed
    ends = [text[text.index("error:") :].strip().splitlines()[0] for text in printed]
    assert ends[0] == ends[1]
    assert "the newest finite checkpoint is 10: start again with --from_step=10" in ends[0]
    assert finished_steps(tmp_path) == [5, 10]
    kinds = {"coordinator": free_address(), "devices": 4, "stages": [SOUND], "from_step": 5, **SELDOM}
    processes = [start("run_unreadable", tmp_path, {**kinds, "process": i}, devices=2) for i in range(2)]
    printed = [p.communicate(timeout=300)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], printed
    assert "10.set-aside" in printed[0]
    assert "resumed at step 5 of 30" in printed[0]
    assert finished_steps(tmp_path) == [25, 30]
