"""A disk that fills up in the middle of a run is one line; a plan that fails leaves no run directory."""

import resource
import shutil
import time

import pytest

from benchmarks.made_sources import VOCAB, make_sources
from jaxpt import cli
from jaxpt.checkpoints.checkpoints import UNFINISHED, finished_steps
from jaxpt.errors import JaxptError
from jaxpt.training.events import Changes, Event
from tests.files.largest_file import largest_file
from tests.training import run_made

STAGES = [{**run_made.STAGE, "duration": "14 steps"}]


class Filling(Event):
    """After step 6 no file grows beyond `most` bytes: as a full disk, but for the error's name."""

    def __init__(self, most):
        self._most = most

    def is_due(self, view):
        return view.step == 6

    def act(self, view):
        end = time.monotonic() + 60
        while finished_steps(view.workdir) != [5] and time.monotonic() < end:  # it is written in the background
            time.sleep(0.05)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return Changes()


def begin(workdir, events=(), **changes):
    return run_made.start(workdir, stages=STAGES, evaluate=None, events=events, log=lambda line: None, **changes)


def refused(workdir, most, **changes):
    with largest_file(None), pytest.raises(JaxptError) as error:
        begin(workdir, [Filling(most)], **changes)
    return str(error.value)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path, capfd, asynchronous):
    quiet = {"metrics": {"every": 1000, "tensorboard": False}}
    kinds = {**quiet, "checkpoint": {"every": "5 steps", "keep": 2, "asynchronous": asynchronous}}
    line = refused(tmp_path / "run", 2_000, **kinds)
    assert line.startswith(f"{tmp_path / 'run/checkpoints'}: a checkpoint could not be written (")
    assert line.endswith("the newest whole checkpoint is 5; mend that and start again in the same workdir")
    assert "\n" not in line
    assert finished_steps(tmp_path / "run") == [5]
    assert not [p for p in tmp_path.rglob("*") if UNFINISHED in p.name]
    printed = "".join(capfd.readouterr())
    assert not [word for word in ("Traceback", "vent loop", "Exception ignored") if word in printed]
    assert begin(tmp_path / "run", **kinds) == 0
    assert finished_steps(tmp_path / "run") == [10, 14]


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_record_that_cannot_be_written_is_one_line_that_names_its_file(tmp_path, capfd, tensorboard):
    kinds = {"metrics": {"every": 1, "tensorboard": tensorboard}, "checkpoint": {"every": "5 steps", "keep": 2}}
    line = refused(tmp_path / "run", 1_500, **kinds)
    assert line.startswith(f"{tmp_path / 'run'}/metrics.jsonl cannot be written: File too large; free space")
    assert "\n" not in line
    assert "Traceback" not in "".join(capfd.readouterr())
    assert begin(tmp_path / "run", **kinds) == 0


CONFIG = """
def get_config(folder):
    model = dict(vocab_size={vocab}, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True)
    stage = dict(duration="40 steps", batch_size=8, sequence_length=64, mixture=dict(a=1.0))
    return dict(model=model, sources=dict(a=dict(path=folder + "/a")), stages=[stage])
"""
FAILED = {
    "too few rows": ([], "has 65 rows for this run, the plan needs 320"),
    "an unknown key": (["--config.seeed=1"], "did you mean 'seed'?"),
    "a source that is not there": (["--config.sources.a.path=nowhere"], "nowhere"),
    "a batch that does not fit": (["--config.stages[0].sequence_length=32"], "sequence_length is 32"),
    "too little disk": (["--config.sources.a.repeat=9"], "MiB free, 4 checkpoints take"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    make_sources(folder)
    (folder / "run.py").write_text(CONFIG.format(vocab=VOCAB))
    return folder


@pytest.mark.parametrize("why", FAILED)
def test_a_plan_that_fails_leaves_no_run_directory(folder, capsys, monkeypatch, why):
    flags, said = FAILED[why]
    if why == "too little disk":
        usage = shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr("jaxpt.training.run_plan.shutil.disk_usage", lambda path: usage)
    config = f"--config={folder / 'run.py'}:{folder}"
    assert cli.main(["train", config, f"--workdir={folder / 'runs/new'}", *flags]) == 1
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
    assert "Traceback" not in printed.err
    assert printed.err.strip().splitlines()[-1].startswith("jaxpt train: ")
    assert not (folder / "runs").exists()


def test_help_says_that_stage_ends_are_kept_besides(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help-config=checkpoint"])
    assert "the last of each stage and those of keep_every stay besides" in " ".join(capsys.readouterr().out.split())
