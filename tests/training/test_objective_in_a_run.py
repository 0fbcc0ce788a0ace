"""An objective outside the repository in a run: its things are saved, found damaged, carried on, begun new."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpt
from jaxpt.checkpoints.checkpoints import Checkpoints, Retention, finished_steps, read_run, read_state
from jaxpt.checkpoints.reading import with_extra
from jaxpt.commands import report
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.models import Model, init_params
from jaxpt.models.size import param_count
from jaxpt.training.config import RunConfig
from jaxpt.training.extra import make_extra
from jaxpt.training.metrics import read
from jaxpt.training.run_plan import check_disk
from jaxpt.training.state import abstract_state
from tests.objectives import toy
from tests.training import processes, run_made, tiny
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
    assert any("checkpoint 7 is damaged" in line for line in lines)
    assert read_run(workdir, 7)["digests"] == read_run(made[0], 7)["digests"]
    assert losses(workdir) == losses(made[0])


def test_an_item_of_extra_things_that_is_gone_is_damage(made, tmp_path):
    workdir = copied(made, tmp_path, 7)
    shutil.rmtree(workdir / "checkpoints" / "7" / "extra")
    lines = []
    with pytest.raises(JaxptError, match="stop here"):
        run_made.start(workdir, log=lambda line: lines.append(line) or ("damaged" in line and stop(line)), **made[1])
    assert any("checkpoint 7 is damaged" in line for line in lines)


def stop(line):
    """Ends the start: what follows is proven elsewhere."""
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
    with pytest.raises(JaxptError, match=r"stages\[1\].objective: teacher: .*none does not exist"):
        run_made.start(tmp_path / "run", **made[1] | {"stages": stages(objective)})
    assert not Path(tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_a_frozen_run_directory_stays_the_checkpoint_that_it_was_at_the_first_start(made, tmp_path):
    teacher = tmp_path / "teacher"
    short = {"stages": [{**STAGE, "duration": "4 steps"}], "checkpoint": {"every": "2 steps", "keep": 9}}
    assert run_made.start(teacher, log=lambda line: None, **short) == 0
    later = teacher / "checkpoints" / "4"
    later.rename(tmp_path / "4")  # so that 2 is the newest
    objective = made[1]["stages"][1]["objective"] | {"teacher": str(teacher)}
    settings = {**SETTINGS, "stages": [{**STAGE, "duration": "4 steps", "objective": objective}]}
    lines = []
    for name in ("run", "whole"):
        assert run_made.start(tmp_path / name, log=lines.append, **settings) == 0
    assert f"stage stage0: frozen model teacher: checkpoint 2 of run {teacher} (parameters)" in lines
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    (tmp_path / "4").rename(later)
    assert run_made.start(tmp_path / "run", log=lambda line: None, **settings) == 0
    assert read_run(tmp_path / "run", 4)["digests"] == read_run(tmp_path / "whole", 4)["digests"]
    assert read_run(tmp_path / "run", 4)["frozen"][str(teacher)]["path"] == str(teacher / "checkpoints" / "2")
    other = read_run(tmp_path / "run", 4)["digests"]  # another teacher gives another run: the proof above can fail
    assert run_made.start(tmp_path / "other", log=lambda line: None, **settings) == 0
    assert read_run(tmp_path / "other", 4)["digests"] != other
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    shutil.rmtree(teacher / "checkpoints" / "2")
    with pytest.raises(JaxptError, match=r"stages\[0\].objective: teacher: .*no finished checkpoint 2.*began with"):
        run_made.start(tmp_path / "run", log=lambda line: None, **settings)


def test_a_frozen_bundle_that_was_replaced_is_refused(made, tmp_path):
    bundle = tmp_path / "b"
    save = lambda seed: jaxpt.save(Model(tiny.MODEL, init_params(tiny.MODEL, seed)), bundle)  # noqa: E731
    save(1)
    objective = made[1]["stages"][1]["objective"] | {"teacher": str(bundle)}
    settings = {**SETTINGS, "stages": [{**STAGE, "duration": "2 steps", "objective": objective}]}
    assert run_made.start(tmp_path / "run", log=lambda line: None, **settings) == 0
    shutil.rmtree(bundle)
    save(2)
    with pytest.raises(JaxptError, match=r"teacher: .*b holds another model now; .*another --workdir"):
        run_made.start(tmp_path / "run", log=lambda line: None, **settings)


OWN = '''
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from jaxpt.config.choice import option
from jaxpt.models import forward
from jaxpt.objectives.objective import ExtraSpec, Group, Objective, Terms
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.optimizers.adamw import AdamW


@dataclass(frozen=True)
class Signs(Optimizer):
    """Keeps no state."""

    def core(self, spec):
        return optax.stateless(lambda grads, params: jax.tree.map(jnp.sign, grads))


@dataclass(frozen=True)
class Bare(Objective):
    """Reports nothing by itself, and trains a scale without and a shift with a state."""

    shift: bool = True
    bad: bool = False

    def extra_specs(self, model):
        names = {"scale": "ones"} | ({"shift": "zeros"} if self.shift else {})
        return {n: ExtraSpec((model.embed,), ("embed",), init=i, group=f"{n}s") for n, i in names.items()}

    def groups(self):
        return {"scales": Group(Signs(1e-3))} | ({"shifts": Group(AdamW(1e-3))} if self.shift else {})

    def terms(self, inputs):
        b = inputs.batch
        logits = forward(inputs.model, inputs.params, b["tokens"], b["segment_ids"], b["positions"], inputs.compute)
        loss = jnp.mean(jnp.square(logits)) * jnp.mean(inputs.extra["scale"])
        if self.shift:
            loss += jnp.sum(jnp.square(inputs.extra["shift"] - 1))
        return Terms(jnp.where(self.bad, jnp.nan, loss))
'''


@pytest.fixture
def bare(tmp_path, monkeypatch):
    (tmp_path / "bare_objective.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "bare_objective:Bare"


@pytest.mark.slow
@pytest.mark.parametrize("shift", [True, False])
def test_a_group_whose_optimizer_keeps_no_state_is_saved_and_goes_on(bare, tmp_path, shift):
    objective = {"name": bare, "shift": shift}
    settings = {**SETTINGS, "stages": [{**STAGE, "duration": "4 steps", "objective": objective}]}
    for name in ("run", "whole"):
        assert run_made.start(tmp_path / name, log=lambda line: None, **settings) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    lines = []
    assert run_made.start(tmp_path / "run", log=lines.append, **settings) == 0
    assert "resumed at step 2 of 4" in "".join(lines)
    assert not any("anew" in line for line in lines)
    now, then = read_run(tmp_path / "run", 4)["digests"], read_run(tmp_path / "whole", 4)["digests"]
    assert now == then
    assert "extra/values/scale" in now
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_an_objective_that_names_no_loss_is_recorded_and_reported(bare, tmp_path, capsys):
    settings = {**SETTINGS, "stages": [{**STAGE, "duration": "3 steps", "objective": {"name": bare}}]}
    assert run_made.start(tmp_path / "run", log=lambda line: None, **settings) == 0
    records = read(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if "train/loss" in r] == [1, 2, 3]
    assert not any(name.startswith("train/loss/") for r in records for name in r)
    assert report.main([f"--workdir={tmp_path / 'run'}"]) == 0
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "<td>norm/final</td>" in page


def test_a_loss_that_is_not_finite_stops_in_one_line(bare, tmp_path):
    settings = {**SETTINGS, "stages": [{**STAGE, "duration": "3 steps", "objective": {"name": bare, "bad": True}}]}
    with pytest.raises(JaxptError, match="the loss at step 1 is nan"):
        run_made.start(tmp_path / "run", log=lambda line: None, **settings)


def test_the_disk_check_counts_what_the_objective_trains(made, tmp_path, monkeypatch):
    plan, _, optimizer = program(
        stages=[{**STAGE, "duration": "1 steps", "objective": made[1]["stages"][1]["objective"]}]
    )
    stage = plan.stages[0]
    extra = make_extra(stage.config.objective, stage.model).nbytes
    saved = read_run(made[0], 7)["extra"]
    assert extra == sum(4 * int(np.prod(shape)) for _, *shape in saved.values())
    free = 2 * (4 * param_count(plan.model) + optimizer.state_bytes) + extra
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    check_disk(tmp_path, plan.model, optimizer, 1)
    with pytest.raises(JaxptError, match="2 checkpoints take"):
        check_disk(tmp_path, plan.model, optimizer, 1, extra)


@pytest.mark.slow
def test_two_hosts_train_it_and_one_goes_on(tmp_path):
    """The teacher is read, the gates and multipliers are saved, by both; another number of devices carries them on."""
    teacher = tiny.MODEL.replace(embed=24, kv_heads=4)
    jaxpt.save(Model(teacher, init_params(teacher, 3)), tmp_path / "b")
    objective = {"name": "tests.objectives.toy:Toy", "teacher": str(tmp_path / "b")}
    settings = {**SETTINGS, "stages": [{**STAGE, "duration": "4 steps", "objective": objective}]}
    workdirs = [tmp_path / name for name in ("two", "one")]
    for run, hosts in zip(workdirs, (2, 1)):
        several = {"coordinator": processes.free_address()} if hosts > 1 else {}
        kinds = [{**settings, **several, "devices": 4} | ({"process": i} if several else {}) for i in range(hosts)]
        processes.finish([processes.start("run_made", run, k, devices=4 // hosts) for k in kinds])
    for now, then in zip(losses(workdirs[0]), losses(workdirs[1]), strict=True):
        np.testing.assert_allclose([*now.values()][1:], [*then.values()][1:], rtol=1e-4, err_msg=str(then))
    shutil.rmtree(workdirs[0] / "checkpoints" / "4")
    lines = []
    assert run_made.start(workdirs[0], log=lines.append, **settings) == 0  # on one device
    assert "resumed at step 2 of 4" in lines
    assert not any("anew" in line for line in lines)
    for now, then in zip(losses(workdirs[0]), losses(workdirs[1]), strict=True):
        np.testing.assert_allclose([*now.values()][1:], [*then.values()][1:], rtol=1e-4, err_msg=str(then))
    assert extra_of(workdirs[0], 4)["opt_state"]["gates"]["count"] == 4
