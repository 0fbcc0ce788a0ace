"""One process of two killed or stopped at a random moment: the other must say so and end; then both again."""

import contextlib
import itertools
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

from benchmarks.attack.children import Outcome, Running
from benchmarks.attack.jobs import JOBS
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import Victims

LIMIT = 5  # seconds until a process counts as lost, where the code under attack has such a limit
HANG = 200.0  # seconds until two processes count as hanging
SHAPE = ("--config.stages[0].duration=40 steps", "--config.sources.a.repeat=9", "--config.sources.b.repeat=9")
SAID = re.compile(r"process \d of 2.* is missing since \d\d:\d\d:\d\d; .*start all processes again")


def attack(room: Room) -> list[Trial]:
    """Loses either process in either way, the working process alone or with all that watches over it."""
    has_limit = "lost_after" in room.children.call(["command", "jaxpt", "train", "--help-config=sharding"]).out
    shape = (*SHAPE, *[f"--config.sharding.lost_after={LIMIT}"] * has_limit)
    place = room.place()
    for running in two(room, place, shape):
        if (outcome := running.wait(HANG)).code:
            raise SystemExit(f"two undisturbed processes fail: {outcome.text[-2000:]}")
    answer = room.children.call(JOBS["train"].answer(place)).answer
    drop(place)
    ways = itertools.cycle(itertools.product((False, True), (signal.SIGKILL, signal.SIGSTOP), (0, 1)))
    return [trial(room, shape, *way, answer) for way in itertools.islice(ways, room.trials)]


def two(room: Room, place: Path, shape: tuple[str, ...]) -> list[Running]:
    """Starts the two processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        server.start([call(room.victims, place, shape, address, i)])
        for i, server in enumerate(room.children.servers[:2])
    ]


def call(victims: Victims, place: Path, shape: tuple[str, ...], address: str, index: int) -> list[str]:
    """What one of the two runs."""
    joined = (f"--coordinator={address}", "--processes=2", f"--process_id={index}")
    return victims.train(place / "run", *shape, *joined)


def trial(room: Room, shape: tuple[str, ...], whole: bool, number: signal.Signals, victim: int, answer: Any) -> Trial:
    """One trial: a process lost, the other judged; then both again, and their result compared."""
    place, moment = room.place(), room.rng.uniform(0, 2)
    which = f"{'coordinator' if victim == 0 else 'worker'}, {'all of it' if whole else 'what works'}"
    both = two(room, place, shape)
    begun = time.monotonic()
    while not (place / "run" / "events.jsonl").exists() and time.monotonic() - begun < HANG:
        time.sleep(0.05)
    time.sleep(moment)
    lose(both[victim].pid, number, whole)
    other = both[1 - victim].wait(HANG)
    if whole:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(both[victim].pid, signal.SIGKILL)
    own = both[victim].wait(HANG)
    verdict, reason = judged(other), f"exit {other.code} after {other.seconds:.0f} s: {other.reason}"
    if verdict in ("noticed", "harmless") and not whole and own.code not in (0, 75):
        verdict, reason = "silent", f"its own process: exit {own.code}: {own.reason}"
    if verdict in ("noticed", "harmless"):
        again = [running.wait(HANG) for running in two(room, place, shape)]
        now = room.children.call(JOBS["train"].answer(place))
        if any(outcome.code for outcome in again):
            verdict, reason = "wrong refusal", " | ".join(outcome.reason for outcome in again)
        elif now.answer != answer:
            verdict, reason = "silent", "another result"
    drop(place)
    return Trial(f"a lost host: {number.name}", f"{which}, after {moment:.2f} s", verdict, reason)


def lose(pid: int, number: signal.Signals, whole: bool) -> None:
    """Signals all of a process group, or the process that works: a child, where one watches over it."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        if whole:
            os.killpg(pid, number)
            return
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(children[0]) if children else pid, number)


def judged(other: Outcome) -> str:
    """What the process that was left alone made of it."""
    if other.hung:
        return "hang"
    if other.code == 0:
        return "harmless"  # it was done before
    if other.code == 75 and SAID.search(other.reason):
        return "noticed"
    return failed(other) or ("traceback" if other.code == 128 + signal.SIGABRT else "silent")
