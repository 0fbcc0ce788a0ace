"""A run directory has one writer: a second one is refused, a killed one does not block it, a replaced one stops."""

import signal
import socket

import pytest

from benchmarks.made_sources import make_sources
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.files.lock import NAME, Lock, inside
from jaxpt.training.metrics import read
from tests.training.processes import finish, free_address, kill_all, start, steps_logged, wait_for

CONFIG = """
def get_config():
    stage = dict(batch_size=8, sequence_length=64, mixture=dict(a=0.5, b=0.3, c=0.2))
    return dict(
        model=dict(vocab_size=512, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True),
        sources={n: dict(path="SOURCES/" + n) for n in "abc"},
        stages=[dict(stage, duration="10 steps")],
        checkpoint=dict(every="5 steps"),
        metrics=dict(every=1, tensorboard=False),
    )
"""
PATIENCE = 600


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_writer")
    make_sources(folder / "sources", rows=100)
    (folder / "config.py").write_text(CONFIG.replace("SOURCES", str(folder / "sources")))
    return folder / "config.py"


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish([launch(config, workdir)])
    return losses(workdir)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    kill_all()


def launch(config, workdir, **settings):
    return start("run_command", config, workdir, settings)


def losses(workdir):
    return [(r["step"], r["train/loss"]) for r in read(workdir / "metrics.jsonl") if "train/loss" in r]


def held_at(config, workdir, step, **settings):
    """A run that waits before the batch of `step`, all steps before it logged."""
    process = launch(config, workdir, hold_at=step, **settings)
    wait_for(workdir, lambda path: steps_logged(path) >= step, process)
    return process


def release(workdir):
    workdir.with_suffix(".release").touch()


def refusal(process):
    printed = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 1, printed
    lines = [line for line in printed.splitlines() if line.startswith("jaxpt train: ")]
    assert len(lines) == 1, printed
    assert "Traceback" not in printed
    return lines[0]


def test_a_second_run_is_refused_and_the_first_goes_on_undisturbed(config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    first = held_at(config, workdir, 3)
    said = refusal(launch(config, workdir))
    assert f"{workdir} is being written by process {first.pid} on {socket.gethostname()} (since " in said
    assert "stop that process, or give another --workdir" in said
    said = refusal(launch(config, workdir, flags=["--take_over"]))
    assert f"--take_over is for a writer that is gone, process {first.pid} is not" in said
    release(workdir)
    finish([first])
    assert losses(workdir) == undisturbed
    assert not (workdir / NAME).exists()


@pytest.mark.slow
def test_without_the_lock_two_runs_do_collide(config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    first = held_at(config, workdir, 3, lock=False)
    second = launch(config, workdir, lock=False)
    second.communicate(timeout=PATIENCE)
    release(workdir)
    first.communicate(timeout=PATIENCE)
    assert (first.returncode, second.returncode) != (0, 1) or losses(workdir) != undisturbed


def test_a_killed_run_goes_on_at_once(config, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    first = held_at(config, workdir, 7)
    wait_for(workdir, lambda path: 5 in finished_steps(path), first)
    first.kill()
    first.wait()
    assert (workdir / NAME).exists()
    (printed,) = finish([launch(config, workdir)])
    assert "resumed at step 5" in printed
    assert losses(workdir) == undisturbed


def test_a_run_that_was_taken_for_gone_stops_before_it_writes_again(config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    first = held_at(config, workdir, 4)
    before = losses(workdir)
    first.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with Lock(inside(workdir), workdir).acquire(take_over=True):
        release(workdir)
        first.send_signal(signal.SIGCONT)
        said = refusal(first)
        assert "has another writer: process" in said
        assert "on elsewhere (since" in said
        assert losses(workdir) == before
        assert finished_steps(workdir) == []


def several(config, workdir):
    address = free_address()
    return [launch(config, workdir, coordinator=address, processes=2, process=i) for i in range(2)]


@pytest.mark.slow
def test_all_processes_of_a_run_end_when_the_first_is_refused(config, tmp_path):
    workdir = tmp_path / "run"
    with Lock(inside(workdir), workdir).acquire():
        said = {refusal(p) for p in several(config, workdir)}
    assert len(said) == 1
    assert "is being written by process" in said.pop()
    (workdir / "mine.txt").parent.mkdir(exist_ok=True)
    (workdir / "mine.txt").touch()
    said = {refusal(p) for p in several(config, workdir)}
    assert len(said) == 1
    assert "is not empty and no run (mine.txt)" in said.pop()


@pytest.mark.slow
def test_processes_of_one_run_do_not_lock_each_other_out(config, tmp_path):
    finish(several(config, tmp_path / "run"))
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(1, 11))
