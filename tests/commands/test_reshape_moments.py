"""`jaxpt reshape --moments`: a run's optimizer goes with its model into a bundle; a run that starts there goes on."""

import json
import tarfile

import jax
import numpy as np
import pytest

from jaxpt import load
from jaxpt.bundles import store
from jaxpt.checkpoints.checkpoints import model_of, read_run, read_state
from jaxpt.commands import reshape, train
from jaxpt.errors import JaxptError
from jaxpt.models.specs import flatten, param_specs
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.training.config import ShardingConfig
from jaxpt.training.metrics import read
from jaxpt.training.state import abstract_state, make_layout
from tests.fixtures.archive import FIXTURES

CUT = 'def get_config():\n    return {"transforms": [{"name": "subclone"}], "target": {"mlp": MLP}}\n'


def state_of(run, step):
    """The optimizer state of an AdamW run."""
    facts = read_run(run, step)
    model = model_of(facts)
    optimizer = make_optimizer(AdamW(), param_specs(model))
    abstract = abstract_state(model, optimizer, make_layout(model, ShardingConfig(), jax.devices()[:1]))
    return flatten(jax.device_get(read_state(run, step, abstract.to_items(), facts)["opt_state"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What b398682 wrote: `finished`, an AdamW run of 12 steps; `cut`, a bundle of it with fewer neurons."""
    folder = tmp_path_factory.mktemp("moments")
    with tarfile.open(FIXTURES / "b398682.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    mlp = load(folder / "finished").config.mlp
    (folder / "cut.py").write_text(CUT.replace("MLP", str(mlp // 2)))
    run = (folder / "run.py").read_text()
    (folder / "run.py").write_text(run.replace(f'"mlp": {mlp}', f'"mlp": {mlp // 2}'))
    with pytest.MonkeyPatch.context() as at:
        at.chdir(folder)
        assert reshape.main(["--config=cut.py", "--from=finished", "--moments", "--to=cut"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_moments_are_cut_where_the_parameters_are_and_a_run_goes_on_with_them(folder):
    start = ["--config=run.py", "--workdir=on", "--config.init_from=cut", "--config.leave_out_seen=false"]
    assert train.main([*start, "--config.stages[0].load=params+optimizer"]) == 0
    old, model = load("finished"), load("cut")
    before, after = flatten(old.params), flatten(model.params)
    facts = json.loads((folder / "cut/optimizer.json").read_text())
    assert (facts["optimizer"]["name"], facts["step"], facts["reset"]) == ("adamw", 12, [])
    assert facts["shared"]["count"] == ["int32", 12]
    moments = state_of(folder / "finished", 12)
    stored = {
        f"{s}/{p}": store.read(store.open_array(folder / "cut/optimizer" / s / p)) for s in ("mu", "nu") for p in after
    }
    for layer in range(before["blocks/dense/up"].shape[0]):
        columns = [
            int(np.flatnonzero((before["blocks/dense/up"][layer] == column[:, None]).all(0))[0])
            for column in np.asarray(after["blocks/dense/up"][layer]).T
        ]
        for name in ("mu", "nu"):
            np.testing.assert_array_equal(
                stored[f"{name}/blocks/dense/up"][layer], moments[f"{name}/blocks/dense/up"][layer][:, columns]
            )
            np.testing.assert_array_equal(
                stored[f"{name}/blocks/dense/down"][layer], moments[f"{name}/blocks/dense/down"][layer][columns]
            )
    np.testing.assert_array_equal(stored["nu/embed/table"], moments["nu/embed/table"])
    assert int(state_of(folder / "on", 12)["count"]) == 24


def test_without_them_the_same_run_takes_other_steps(folder):  # the proof above can fail
    start = ["--config=run.py", "--workdir=new", "--config.init_from=cut", "--config.leave_out_seen=false"]
    assert train.main([*start, "--config.stages[0].load=params"]) == 0
    losses = [
        {r["step"]: r["train/loss"] for r in read(folder / run / "metrics.jsonl") if "train/loss" in r}
        for run in ("on", "new")
    ]
    assert losses[0][1] == losses[1][1]
    assert losses[0][5] != losses[1][5]
    assert int(state_of(folder / "new", 12)["count"]) == 12


def test_another_optimizer_is_refused_by_name():
    start = ["--config=run.py", "--workdir=lion", "--config.init_from=cut", "--config.optimizer.name=lion"]
    with pytest.raises(JaxptError, match=r"cut holds the moments of adamw, config.optimizer.name is lion; take that"):
        train.main([*start, "--config.stages[0].load=params+optimizer"])


def test_a_changed_array_is_refused(folder):
    chunk = next(p for p in (folder / "cut/optimizer/nu/final_norm").rglob("*") if p.is_file() and "json" not in p.name)
    content = chunk.read_bytes()
    chunk.write_bytes(content[:3] + bytes([content[3] ^ 1]) + content[4:])
    start = ["--config=run.py", "--workdir=bad", "--config.init_from=cut", "--config.stages[0].load=params+optimizer"]
    with pytest.raises(JaxptError, match=r"optimizer/nu/final_norm is damaged"):
        train.main(start)
    chunk.write_bytes(content)


def test_a_model_without_an_optimizer_is_refused():
    with pytest.raises(JaxptError, match="--moments: cut has no optimizer; give a run"):
        reshape.main(["--config=cut.py", "--from=cut", "--moments", "--to=other"])
