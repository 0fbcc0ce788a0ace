"""A lost process of several is named by the others in one line, with an exit code that says: start again."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxpt.sharding.watch import DONE, FAILED, Signs
from tests.training.processes import free_address

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 4.0  # seconds without a sign of life until a process counts as lost
PATIENCE = 120


@pytest.fixture
def start():
    """Starts supervised processes; ends what is left of them."""
    started = []

    def begin(stdout=subprocess.PIPE, **wanted):
        command = [sys.executable, "-m", "tests.sharding.run_supervised", json.dumps(wanted)]
        env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.STDOUT))
        return started[-1]

    yield begin
    for process in started:
        process.kill()  # the child ends with it
        process.wait()


def child(process):
    """Waits until the child is at work; returns its process id."""
    while line := process.stdout.readline().decode():
        if line.startswith("child "):
            return int(line.split()[1])
    pytest.fail("the child never worked")


def ended(process):
    """The exit code and what was printed until then."""
    printed = process.communicate(timeout=PATIENCE)[0].decode()
    return process.returncode, printed.splitlines()


def is_there(pid):
    """Whether a process runs: one that nobody waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


# --- what counts as lost ---


def test_a_process_is_lost_once_its_sign_has_not_changed_for_the_limit():
    signs = Signs([1, 2], 10.0, now=0.0)
    for now in range(1, 21):
        signs.note({1: str(now), 2: str(min(now, 8))}, float(now))
        assert signs.lost() == ((2, now - 8.0, False) if now > 18 else None)


def test_a_process_that_never_gave_a_sign_is_lost_after_the_limit():
    signs = Signs([1], 10.0, now=0.0)
    for now in range(1, 12):
        signs.note({}, float(now))
    assert signs.lost() == (1, 11.0, False)


def test_who_is_done_is_not_lost_and_who_failed_is():
    signs = Signs([1, 2], 10.0, now=0.0)
    for now in range(1, 13):
        signs.note({1: DONE, 2: FAILED}, float(now))
    assert signs.lost() == (2, 11.0, True)


def test_a_process_that_was_stopped_itself_blames_nobody():
    signs = Signs([1], 10.0, now=0.0)
    signs.note({1: "1"}, 1.0)
    signs.note({1: "1"}, 100.0)
    assert signs.lost() is None
    for now in range(101, 112):
        signs.note({1: "1"}, float(now))
    assert signs.lost() == (1, 11.0, False)


# --- a process and its child ---


@pytest.mark.parametrize(
    ("wanted", "code", "last"),
    [
        ({"code": 3}, 3, None),
        ({"mistake": "x is broken; do y"}, 1, "test: x is broken; do y"),
        ({"signal": signal.SIGUSR1}, 138, "test: a process of several, this one, was ended by SIGUSR1; go on"),
    ],
)
def test_the_exit_code_of_the_child_passes_through(start, wanted, code, last):
    returned, printed = ended(start(**wanted))
    assert returned == code, printed
    assert last is None or printed[-1] == last
    assert len(printed) == 1 + (last is not None)


def test_a_killed_child_is_said_in_a_line_with_the_code_that_says_start_again(start):
    process = start()
    os.kill(child(process), signal.SIGKILL)
    code, printed = ended(process)
    assert code == 75
    assert re.fullmatch(
        r"test: a process of several, this one, was killed at \d\d:\d\d:\d\d \(.*\); go on", printed[-1]
    )


def test_signals_come_to_the_child_and_the_child_ends_with_its_supervisor(start):
    process = start()
    pid = child(process)
    process.send_signal(signal.SIGTERM)
    code, printed = ended(process)
    assert (code, printed[-1]) == (75, "test: stopped before the first step; go on")
    assert not is_there(pid)
    process = start()
    pid = child(process)
    process.kill()
    deadline = time.monotonic() + PATIENCE
    while is_there(pid):
        assert time.monotonic() < deadline, "the child outlived its supervisor"
        time.sleep(0.02)


def test_the_child_has_the_terminal_and_ctrl_c_comes_by_the_supervisor_alone(start):
    ours, terminal = pty.openpty()
    process = start(stdout=terminal, code=0)
    assert process.wait(timeout=PATIENCE) == 0
    words = os.read(ours, 1000).decode().split()
    assert words[2:] == ["True", "True", "SIG_IGN"]


# --- two processes ---


def of_two(start, victim, number, **wanted):
    """Starts two that are joined, sends the child of one a signal; returns the other's code and lines, and the own."""
    address = free_address()
    processes = [start(coordinator=address, process=i, limit=LIMIT, **wanted) for i in range(2)]
    children = [child(process) for process in processes]
    time.sleep(1.0)  # some signs of life
    begun = time.monotonic()
    if number:
        os.kill(children[victim], number)
    other = ended(processes[1 - victim])
    assert time.monotonic() - begun < 60  # seconds; the limit is 4
    assert not any(is_there(pid) for pid in (children[1 - victim],))
    return other, ended(processes[victim])


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        (1, signal.SIGKILL),
        (0, signal.SIGSTOP),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_the_other_process_names_the_lost_one_and_both_say_start_again(start, victim, number):
    (code, printed), (own_code, own) = of_two(start, victim, number)
    assert (code, own_code) == (75, 75), printed + own
    where = r" \(the coordinator, 127.0.0.1:\d+\)" if victim == 0 else ""
    assert re.fullmatch(rf"test: process {victim} of 2{where} is missing since \d\d:\d\d:\d\d; go on", printed[-1])
    how = "was killed at" if number == signal.SIGKILL else "is stopped since"
    assert re.match(rf"test: process {victim} of 2, this one, {how} \d\d:\d\d:\d\d", own[-1])


def agreeing(start, number, **wanted):
    """Signals the supervisor of one of two that count steps; returns codes and last lines of both."""
    address = free_address()
    both = [start(coordinator=address, process=i, **wanted) for i in range(2)]
    for process in both:
        child(process)
    both[1].send_signal(number)
    codes, printed = zip(*map(ended, both))
    return list(codes), [lines[-1] if lines else "" for lines in printed]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_one_process_lets_all_agree_on_a_step_soon(start, number):
    codes, said = agreeing(start, number, steps=12_000)
    assert codes == [75, 75]
    assert said[0] == said[1]
    assert 0 < int(said[0].removeprefix("agreed at ")) < 11_000


@pytest.mark.slow
def test_with_a_handler_of_python_none_would_hear_of_it(start):  # the proof above can fail
    codes, said = agreeing(start, signal.SIGTERM, steps=400, handler=True)
    assert codes == [0, 0]
    assert not any(line.startswith("agreed at") for line in said)


@pytest.mark.slow
def test_all_start_from_the_checkpoint_that_the_first_process_finds(start, tmp_path):
    for process, steps in enumerate(([5], [5, 10])):  # saved between the looks of two hosts
        for step in steps:
            folder = tmp_path / str(process) / "checkpoints" / str(step)
            folder.mkdir(parents=True)
            (folder / "_CHECKPOINT_METADATA").touch()
    address = free_address()
    both = [start(coordinator=address, process=i, code=0, newest=str(tmp_path / str(i))) for i in range(2)]
    for code, printed in map(ended, both):
        assert code == 0, printed
        assert "start 5" in printed
    code, printed = ended(start(code=0, newest=str(tmp_path / "1")))
    assert "start 1" in printed  # alone, the run itself, whose newest is chosen when it is read


@pytest.mark.slow
def test_two_that_live_stay_together_for_longer_than_the_limit(start):  # the proof above can fail
    address = free_address()
    both = [start(coordinator=address, process=i, limit=LIMIT, code=0, seconds=2.5 * LIMIT) for i in range(2)]
    for code, printed in map(ended, both):
        assert code == 0, printed
        assert not any("missing" in line for line in printed)


@pytest.mark.slow
def test_a_process_that_ended_with_an_error_is_named_so_and_nobody_starts_again(start):
    address = free_address()
    failed = start(coordinator=address, process=1, limit=LIMIT, mistake="x is broken")
    other = start(coordinator=address, process=0, limit=LIMIT)
    code, printed = ended(other)
    assert code == 1
    assert re.search(
        r"process 1 of 2 ended at \d\d:\d\d:\d\d with an error, which stands in its own output", printed[-1]
    )
    assert ended(failed)[0] == 1
