"""An optimizer in one file outside the repository trains, is saved and goes on; old checkpoints go on with AdamW."""

import json
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpt.checkpoints.checkpoints import model_of, read_run, read_state
from jaxpt.commands import train
from jaxpt.errors import JaxptError
from jaxpt.models.specs import flatten, param_specs
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.training.config import ShardingConfig
from jaxpt.training.metrics import read
from jaxpt.training.state import abstract_state, make_layout
from tests.fixtures.archive import FIXTURES
from tests.fixtures.make import stop_at

CODE = '''
"""Sign of a momentum that is kept in rows and columns, as no optimizer of jaxpt does."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxpt.config.choice import option
from jaxpt.optim.optimizer import Optimizer


class RowState(NamedTuple):
    calls: jax.Array
    rows: optax.Updates


@dataclass(frozen=True)
class RowMomentum(Optimizer):
    """One mean of the gradient for each row."""

    momentum: float = option(0.9, "decay rate of the mean")

    def core(self, specs):
        def init(params):
            rows = jax.tree.map(lambda p: jnp.zeros(p.shape[:-1]), params)
            return RowState(jnp.zeros((), jnp.int32), rows)

        def update(grads, state, params=None):
            mean = lambda r, g: self.momentum * r + (1 - self.momentum) * jnp.mean(g, axis=-1)
            rows = jax.tree.map(mean, state.rows, grads)
            return jax.tree.map(lambda g, r: jnp.sign(g + r[..., None]), grads, rows), RowState(state.calls + 1, rows)

        return optax.GradientTransformation(init, update)


@dataclass(frozen=True)
class Plain(Optimizer):
    """The sign of the gradient: no state at all."""

    def core(self, specs):
        return optax.scale_by_sign()
'''
NAME = "outside_optimizer:RowMomentum"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The current folder: what b398682 wrote, and a file with two optimizers."""
    with tarfile.open(FIXTURES / "b398682.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "code").mkdir()
    (tmp_path / "code/outside_optimizer.py").write_text(CODE)
    section = f'"optimizer": {{"name": "{NAME}", "learning_rate": 1e-3, "momentum": 0.8}}'
    run = (tmp_path / "run.py").read_text().replace('"model":', f'{section}, "model":')
    (tmp_path / "outside.py").write_text(run)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def losses(run):
    return {r["step"]: r["train/loss"] for r in read(Path(run) / "metrics.jsonl") if "train/loss" in r}


def test_an_optimizer_outside_the_repository_trains_and_goes_on_from_a_config(written, capsys):
    assert train.main(["--config=outside.py", "--workdir=whole"]) == 0
    stored = json.loads((written / "whole/config.json").read_text())["optimizer"]
    assert (stored["name"], stored["momentum"]) == (NAME, 0.8)
    saved = read_run(written / "whole", 12)["digests"]
    assert saved["calls"] == ["12"]
    assert len(saved["rows/blocks/dense/q"]) == 2, "a digest per layer, although it is not a moment of q's shape"
    assert saved["rows/blocks/dense/q"][0] != saved["rows/blocks/dense/q"][1]
    before, digests = losses("whole"), saved
    stop_at(Path("whole"), 8)
    capsys.readouterr()
    assert train.main(["--config=outside.py", "--workdir=whole"]) == 0
    said = capsys.readouterr().out
    assert "resumed at step 8 of 12" in said
    assert "before," not in said
    assert losses("whole") == before
    assert read_run(written / "whole", 12)["digests"] == digests


def test_it_is_chosen_on_the_command_line(written):
    flags = [f"--config.optimizer.name={NAME}", "--config.optimizer.momentum=0.5"]
    assert train.main(["--config=run.py", "--workdir=flags", *flags]) == 0
    assert read_run(written / "flags", 12)["digests"]["calls"] == ["12"]


def test_an_option_is_changed_on_the_command_line(written):
    assert train.main(["--config=outside.py", "--workdir=one"]) == 0
    assert train.main(["--config=outside.py", "--workdir=two", "--config.optimizer.momentum=0.1"]) == 0
    assert losses("one")[1] == losses("two")[1]
    assert losses("one")[5] != losses("two")[5]


def test_an_optimizer_without_a_state_trains_and_goes_on(written, capsys):
    Path("outside.py").write_text(
        Path("outside.py").read_text().replace("RowMomentum", "Plain").replace(', "momentum": 0.8', "")
    )
    assert train.main(["--config=outside.py", "--workdir=whole"]) == 0
    before = losses("whole")
    stop_at(Path("whole"), 8)
    assert train.main(["--config=outside.py", "--workdir=whole"]) == 0
    assert "resumed at step 8 of 12" in capsys.readouterr().out
    assert losses("whole") == before


def test_another_optimizer_on_resume_is_an_error_of_one_line(written):
    with pytest.raises(JaxptError, match="take the optimizer back that it was trained with") as error:
        train.main(["--config=outside.py", "--workdir=run"])
    assert "calls" in str(error.value)
    assert "\n" not in str(error.value)


def state_at(run, step):
    saved = read_run(Path(run), step)
    model = model_of(saved)
    layout = make_layout(model, ShardingConfig(), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(model))
    abstract = abstract_state(model, optimizer, layout)
    return flatten(read_state(Path(run), step, abstract.to_items(), saved)["opt_state"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "run", "finished", "last"),
    [
        ("run.py", "run", "finished", 12),
        ("rich.py", "rich", "rich_finished", 9),
    ],
)
def test_moments_that_an_earlier_commit_saved_go_on(written, config, run, finished, last):
    rows = ["--config.sharding.mesh.fsdp=4", "--config.sharding.mesh.tensor=2"]  # eight devices, four rows
    whole = tuple(f"blocks/{s}/{n}" for s in ("dense", "moe") for n in "kv")
    flags = [*rows, f"--config.sharding.allow_replicated={whole}"] if run == "rich" else []
    assert train.main([f"--config={config}", f"--workdir={run}", *flags]) == 0
    now, then = state_at(run, last), state_at(finished, last)
    assert now.keys() == then.keys()
    for key, value in then.items():
        scale = max(float(np.max(np.abs(value))), 1e-12)
        np.testing.assert_allclose(now[key] / scale, value / scale, atol=2e-4, err_msg=key)


def test_fresh_moments_would_be_seen(written):  # the proof above can fail
    shutil.rmtree("run/checkpoints")
    flags = ["--config.init_from=finished/checkpoints/12", "--config.stages[0].load=params"]
    assert train.main(["--config=run.py", "--workdir=other", *flags]) == 0
    then = state_at("finished", 12)
    now = state_at("other", 12)
    assert any(not np.allclose(now[k], then[k], rtol=1e-2, atol=1e-6) for k in then if k.startswith("nu/"))
