"""A schedule in one file outside this repository works by its name, from a config and from the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxpt.config.file import load
from jaxpt.config.schema import plain
from jaxpt.errors import JaxptError
from jaxpt.optim.schedule import learning_rate, resolve
from jaxpt.training.config import RunConfig

MINE = '''
from dataclasses import dataclass
from jaxpt.config.choice import option
from jaxpt.optim.schedule import Piece, Schedule

@dataclass(frozen=True)
class Steps(Schedule):
    """The peak, then half of it, and so on."""

    halvings: int = option(1, "how often it halves")

    def pieces(self):
        share = f"{100 / (self.halvings + 1)}%"
        rates = [0.5**i for i in range(self.halvings + 1)]
        return [Piece("constant", share if rate > rates[-1] else "rest", rate) for rate in rates]
'''

FILE = """
def get_config(schedule="cosine"):
    stage = dict(duration="8 steps", batch_size=4, sequence_length=16, mixture=dict(code=1))
    stage["schedule"] = dict(name=schedule, end=0.5) if schedule == "cosine" else dict(name=schedule)
    return dict(model=dict(preset="tiny-1m"), sources=dict(code=dict(path="x")), stages=[stage])
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The path of a config; the schedule lies in `mine_outside.py` of another folder, on Python's path."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine_outside.py").write_text(MINE)
    (tmp_path / "run.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield str(tmp_path / "run.py")
    sys.modules.pop("mine_outside", None)


def rates(schedule):
    segments = resolve(schedule, 8, 64)
    return [learning_rate(segments, t, 1.0) for t in range(8)]


def test_from_a_config_and_from_the_command_line(config, capsys):
    stages = load(RunConfig, f"{config}:mine_outside:Steps").stages
    assert rates(stages[0].schedule) == [1.0] * 4 + [0.5] * 4
    assert capsys.readouterr().out == ""
    name = "--config.stages[0].schedule.name=mine_outside:Steps"
    by_flag = load(RunConfig, config, ["--config.stages[0].schedule.halvings=3", name]).stages[0].schedule
    assert rates(by_flag) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert plain(by_flag) == {"name": "mine_outside:Steps", "halvings": 3}
    assert capsys.readouterr().out == f"{name} drops what the config says of cosine: end\n"


def test_an_option_that_it_has_not_names_the_nearest(config):
    with pytest.raises(JaxptError, match=r"schedule\.halving is not a key \(did you mean 'halvings'\?\)"):
        load(RunConfig, f"{config}:mine_outside:Steps", ["--config.stages[0].schedule.halving=3"])


@pytest.mark.parametrize("where", ["current folder", "PYTHONPATH"])
def test_a_command_finds_it_in_the_current_folder_and_on_pythonpath(config, where):
    folder = Path(config).parent / "code"
    main = "import sys; sys.path = [p for p in sys.path if p]; from jaxpt.cli import main; sys.exit(main())"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", main, "plan", f"--config={config}:mine_outside:Steps"],
        cwd=folder if where == "current folder" else "/",
        env=os.environ | {"PYTHONPATH": root if where == "current folder" else f"{root}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("jaxpt plan: x is not a packed source"), "the schedule is there, the data is not"
