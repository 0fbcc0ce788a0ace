"""An objective outside the repository in a run: its things are saved, found damaged, carried on, begun new."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpt
from jaxpt.checkpoints.checkpoints import Checkpoints, Retention, finished_steps, read_run, read_state
from jaxpt.checkpoints.reading import with_extra
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.models import Model, init_params
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from jaxpt.training.state import abstract_state
from tests.objectives import toy
from tests.training import run_made, tiny
from tests.training.checkpoint_folders import program

STAGE = {**run_made.STAGE, "schedule": {"name": "constant"}}
SETTINGS = {"checkpoint": {"every": "2 steps", "keep": 9}, "evaluation": {}}


def stages(objective):
    """Next token; the outside objective; the same again, carried on; the same again, begun new."""
    own = {**STAGE, "duration": "2 steps", "objective": objective}
    return [{**STAGE, "duration": "1 steps"}, own, own, {**own, "load": "params"}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(workdir of a finished run, its settings, what it printed); the objective's file lies outside the repository."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("outside")
        shutil.copy(toy.__file__, folder / "outside_objective.py")
        patch.syspath_prepend(folder)
        teacher = tiny.MODEL.replace(embed=24, kv_heads=4)
        jaxpt.save(
            Model(teacher, jax.tree.map(lambda x: x.astype(jnp.bfloat16), init_params(teacher, 3))), folder / "b"
        )
        objective = {"name": "outside_objective:Toy", "teacher": str(folder / "b"), "temperature": 3.0}
        settings, lines = {**SETTINGS, "stages": stages(objective)}, []
        assert run_made.start(folder / "run", log=lines.append, **settings) == 0
        yield folder / "run", settings, lines


def extra_of(workdir, step):
    """The extra things of a checkpoint, verified."""
    plan, layout, optimizer = program(stages=[STAGE | {"duration": "1 steps"}])
    run = read_run(workdir, step)
    abstract = with_extra(abstract_state(plan.model, optimizer, layout).to_items(), run)
    return jax.device_get(read_state(workdir, step, abstract, run).get("extra"))


def test_a_checkpoint_without_extra_things_has_no_item_of_them(made):
    workdir = made[0] / "checkpoints"
    have = {step: (workdir / str(step) / "extra").exists() for step in finished_steps(made[0])}
    assert have == {1: False, 2: True, 3: True, 4: True, 5: True, 6: True, 7: True}
    assert "extra" not in read_run(made[0], 1)
    assert extra_of(made[0], 1) is None


def test_equal_things_are_carried_on_and_with_params_they_begin_anew(made):
    workdir, _, lines = made
    counts = {step: extra_of(workdir, step)["opt_state"]["gates"]["count"] for step in (3, 5, 7)}
    assert counts == {3: 2, 5: 4, 7: 2}
    anew = [line for line in lines if "start new" in line]
    assert len(anew) == 1
    assert "stage stage3" in anew[0]
    assert "gates/embed" in anew[0]


def copied(made, tmp_path, last):
    """A copy of the run as it was at checkpoint `last`."""
    workdir = tmp_path / "run"
    shutil.copytree(made[0], workdir)
    for step in finished_steps(workdir):
        if step > last:
            shutil.rmtree(workdir / "checkpoints" / str(step))
    return workdir


def losses(workdir):
    """What was logged of each step, without speeds."""
    records = [r for r in read(workdir / "metrics.jsonl") if "train/loss" in r]
    return [{k: v for k, v in r.items() if k.startswith(("train/", "toy/", "optim/"))} for r in records]


def test_a_resume_is_bit_for_bit_the_run_that_was_not_stopped(made, tmp_path):
    workdir = copied(made, tmp_path, 4)
    assert run_made.start(workdir, log=lambda line: None, **made[1]) == 0
    now, then = read_run(workdir, 7)["digests"], read_run(made[0], 7)["digests"]
    assert now == then
    assert {"extra/values/gates/embed", "extra/opt_state/multipliers/mu/multipliers"} <= now.keys()
    assert losses(workdir) == losses(made[0])


def test_a_damaged_item_of_extra_things_is_set_aside(made, tmp_path):
    workdir = copied(made, tmp_path, 7)
    for file in (workdir / "checkpoints" / "7" / "extra").rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    lines = []
    assert run_made.start(workdir, log=lines.append, **made[1]) == 0
    assert "checkpoint 7 is damaged" in lines[0]
    assert read_run(workdir, 7)["digests"] == read_run(made[0], 7)["digests"]
    assert losses(workdir) == losses(made[0])


def test_an_item_of_extra_things_that_is_gone_is_damage(made, tmp_path):
    workdir = copied(made, tmp_path, 7)
    shutil.rmtree(workdir / "checkpoints" / "7" / "extra")
    lines = []
    with pytest.raises(JaxptError, match="stop here"):
        run_made.start(workdir, log=lambda line: lines.append(line) or stop(line), **made[1])
    assert "checkpoint 7 is damaged" in lines[0]


def stop(line):
    """Ends the start at its first line: what follows is proven elsewhere."""
    raise JaxptError("stop here")


def test_extra_things_that_are_not_finite_are_not_saved(made, tmp_path):
    plan, layout, optimizer = program(stages=[STAGE | {"duration": "1 steps"}])
    run = read_run(made[0], 7)
    abstract = with_extra(abstract_state(plan.model, optimizer, layout).to_items(), run)
    items = read_state(made[0], 7, abstract, run)
    items["extra"]["values"]["multipliers"] = jnp.array([0.0, np.inf])
    with pytest.raises(JaxptError, match=r"holds NaN or infinite values \(extra/values/multipliers\)"):
        Checkpoints(tmp_path, Retention(1)).save(8, items, {"tokens": 0, "model": {}})


def test_the_command_line_sets_its_options(made, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(f"def get_config():\n    return {run_made.CONFIG | {'stages': made[1]['stages']}!r}\n")
    config = load(RunConfig, str(file), ["--config.stages[1].objective.target=0.25"])
    assert type(config.stages[1].objective).__name__ == "Toy"
    assert config.stages[1].objective.target == 0.25
    assert config.stages[2].objective.target == 0.5
    with pytest.raises(JaxptError, match=r"stages\[1\].objective.targt is not a key \(did you mean 'target'"):
        load(RunConfig, str(file), ["--config.stages[1].objective.targt=0.25"])


def test_a_frozen_model_that_is_not_there_is_named_before_the_first_step(made, tmp_path):
    objective = made[1]["stages"][1]["objective"] | {"teacher": str(tmp_path / "none")}
    with pytest.raises(JaxptError, match=r"stages\[1\].objective: teacher: .*none is no bundle"):
        run_made.start(tmp_path / "run", **made[1] | {"stages": stages(objective)})
    assert not Path(tmp_path / "run" / "checkpoints").exists()
