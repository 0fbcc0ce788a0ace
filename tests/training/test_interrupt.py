"""SIGTERM and Ctrl-C save whatever the run is doing, of one process or several; it goes on as if undisturbed."""

import re
import signal
import time

import pytest

from benchmarks.made_sources import make_sources
from jaxpt.checkpoints.checkpoints import Checkpoints, finished_steps, read_run
from jaxpt.commands import train
from jaxpt.training import loop
from jaxpt.training.interrupt import EXIT_PREEMPTED
from tests.training import feed, run_made
from tests.training.processes import free_address, start

SHORT = [{**run_made.STAGE, "duration": "4 steps"}, {**run_made.STAGE, "duration": "2 steps"}]
LIBRARIES = re.compile("Traceback|[Ee]vent loop|never awaited|Exception ignored|was destroyed but it is pending")
AGREED = 120  # seconds within which several processes stop, also where they log only once in 2,000 steps


def go(workdir, **more):
    """Runs SHORT in this process; returns the exit code and what was printed."""
    lines = []
    kinds = {"stages": SHORT, "evaluate": "3 steps", "checkpoint": {"every": "100 steps"}, **more}
    return run_made.start(workdir, log=lines.append, **kinds), lines


def digests(workdir):
    return read_run(workdir, 6)["digests"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert go(workdir)[0] == 0
    return digests(workdir)


class Once:
    """Sends this process a signal the `turn`-th time that `call` is called."""

    def __init__(self, call, number, turn=1):
        self.call, self.number, self.turn = call, number, turn

    def __get__(self, owner, kind=None):
        return lambda *args, **more: self(owner, *args, **more)

    def __call__(self, *args, **more):
        self.turn -= 1
        if self.turn == 0:
            signal.raise_signal(self.number)
        return self.call(*args, **more)


MOMENTS = {  # where, the how manieth time, the step that is saved then
    "while a batch is made": (feed.MadeFeed, "batch", 3, 2),
    "between two steps": (feed.MadeFeed, "metrics", 2, 2),
    "in an evaluation": (run_made.FinalNorm, "prepare", 1, 0),
    "while a checkpoint is written": (Checkpoints, "save", 1, 3),
    "before the first step": (loop, "begin_stage", 1, 0),
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("between two steps", signal.SIGTERM),
        *zip(MOMENTS, (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGINT)),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_as_if_undisturbed(
    undisturbed, tmp_path, monkeypatch, capfd, moment, number
):
    where, name, turn, step = MOMENTS[moment]
    monkeypatch.setattr(where, name, Once(getattr(where, name), number, turn))
    code, lines = go(tmp_path / "run")
    assert code == EXIT_PREEMPTED
    what = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}[number]
    saved = f"saved at step {step}" if step else "stopped before the first step"
    assert lines[-1] == f"{what}: {saved}; start again with the same --workdir to go on"
    assert finished_steps(tmp_path / "run") == ([step] if step else [])
    assert not LIBRARIES.search("".join(capfd.readouterr()))
    assert go(tmp_path / "run")[0] == 0
    assert digests(tmp_path / "run") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [True, False])
def test_ctrl_c_while_checkpoints_are_written_prints_a_line_and_nothing_of_the_libraries(
    config, tmp_path, asynchronous
):
    workdir, flags = tmp_path / "run", ["--config.checkpoint.every=1 steps", "--config.checkpoint.keep=2"]
    settings = {"flags": [*flags, f"--config.checkpoint.asynchronous={asynchronous}"]}
    process = start("run_command", config, workdir, settings)
    deadline = time.monotonic() + AGREED
    while not finished_steps(workdir):  # from now on one is written nearly all the time
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=AGREED)[0]
    assert process.returncode == EXIT_PREEMPTED, printed
    said = f"Ctrl-C: saved at step {finished_steps(workdir)[-1]}; go on"
    assert any(line.startswith(said) for line in printed.splitlines()), printed
    assert not LIBRARIES.search(printed), printed


def test_what_libraries_print_would_be_seen():  # the proof above can fail
    assert LIBRARIES.search("Traceback (most recent call last):\n")
    assert LIBRARIES.search("RuntimeError: Event loop is closed\n")


CONFIG = """
def get_config():
    stage = dict(batch_size=8, sequence_length=64, mixture=dict(a=0.5, b=0.3, c=0.2))
    return dict(
        model=dict(vocab_size=512, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True),
        sources={n: dict(path="SOURCES/" + n, repeat=10**6) for n in "abc"},
        stages=[dict(stage, duration="1000000 steps")],
        checkpoint=dict(every="1000000 steps"),
        metrics=dict(every=2000, tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupt")
    make_sources(folder / "sources", rows=50)
    (folder / "config.py").write_text(CONFIG.replace("SOURCES", str(folder / "sources")))
    return folder / "config.py"


def test_a_signal_while_the_run_is_opened_stops_it_and_names_the_command(config, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(train, "open_sources", Once(train.open_sources, signal.SIGINT))
    flags = [f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    assert train.main(flags) == EXIT_PREEMPTED
    assert not (tmp_path / "run").exists()
    said = "Ctrl-C: stopped before the first step; there is no checkpoint yet; go on with jaxpt train"
    assert f"{said} {' '.join(flags)}\n" in capfd.readouterr().err


def several(config, workdir):
    address = free_address()
    settings = [{"coordinator": address, "processes": 2, "process": i} for i in range(2)]
    return [start("run_command", config, workdir, one) for one in settings]


def in_its_stage(workdir):
    events = workdir / "events.jsonl"
    return events.exists() and '"stage"' in events.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_several_processes_stop_and_save_together_however_seldom_they_log(config, tmp_path, victim, number):
    workdir = tmp_path / "run"
    processes = several(config, workdir)
    deadline = time.monotonic() + AGREED
    while not in_its_stage(workdir):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    processes[victim].send_signal(number)
    printed = [p.communicate(timeout=AGREED)[0] for p in processes]
    assert [p.returncode for p in processes] == [EXIT_PREEMPTED] * 2, printed
    (step,) = finished_steps(workdir)
    assert step < 2000  # the first step that is logged
    assert f"SIGTERM: saved at step {step}; go on with jaxpt train --config={config}" in printed[0]
