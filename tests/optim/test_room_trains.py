"""Every optimizer of the room trains from a config, is saved on a mesh, and goes on bit for bit."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxpt.checkpoints.checkpoints import read_run
from jaxpt.commands import train
from jaxpt.training.metrics import read
from tests.fixtures.archive import FIXTURES
from tests.fixtures.make import stop_at

OPTIONS = {
    "muon": ["--config.optimizer.per_neuron=true", "--config.optimizer.adam_learning_rate=1e-3"],
    "lion": [],
    "adafactor": ["--config.optimizer.smallest=8", "--config.optimizer.momentum=0.9"],
    "soap": ["--config.optimizer.every=3"],
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lion", "adafactor", "soap")]


@pytest.fixture
def written(tmp_path, monkeypatch):
    with tarfile.open(FIXTURES / "b398682.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def losses(run):
    return {r["step"]: r["train/loss"] for r in read(Path(run) / "metrics.jsonl") if "train/loss" in r}


@pytest.mark.parametrize("name", ["muon", *SLOW])
def test_it_trains_on_a_mesh_and_goes_on_bit_for_bit(written, name, capsys):
    whole = ("blocks/dense/k", "blocks/dense/v")  # one head for two devices
    mesh = ["--config.sharding.mesh.fsdp=4", "--config.sharding.mesh.tensor=2"]
    mesh.append(f"--config.sharding.allow_replicated={whole}")
    chosen = [f"--config.optimizer.name={name}", "--config.optimizer.learning_rate=1e-3", *OPTIONS[name]]
    arguments = ["--config=run.py", "--workdir=whole", *mesh, *chosen]
    assert train.main(arguments) == 0
    before, digests = losses("whole"), read_run(written / "whole", 12)["digests"]
    assert np.isfinite(list(before.values())).all()
    assert before[12] < before[1]
    stop_at(Path("whole"), 8)
    capsys.readouterr()
    assert train.main(arguments) == 0
    assert "resumed at step 8 of 12" in capsys.readouterr().out
    assert losses("whole") == before
    assert read_run(written / "whole", 12)["digests"] == digests
