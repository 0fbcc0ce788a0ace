"""Disks that fill up: a limit on the size of files, and a file system in memory that is really full."""

import subprocess
from pathlib import Path
from typing import Any

from benchmarks.attack.children import Outcome, Server
from benchmarks.attack.jobs import JOBS, Job
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop


def attack(room: Room) -> list[Trial]:
    """Every job under limits drawn at random, then again with room."""
    todo: list[tuple[Job, str, int, Any]] = []
    for job in JOBS.values():
        place = room.place()
        answer, _ = job.undisturbed(room.victims, room.children, place)
        sizes = [f.stat().st_size for f in place.rglob("*") if f.is_file()]
        for i in range(max(room.trials // 2, 2)):
            if i % 2 and can_mount():
                todo.append((job, "full", int(room.rng.uniform(0.05, 1.0) * (sum(sizes) + 4096 * len(sizes))), answer))
            else:
                todo.append((job, "fsize", int(room.rng.uniform(0.02, 1.0) * max(sizes)), answer))
    return room.children.each(lambda server, item: starved(room, server, *item), todo)


def can_mount() -> bool:
    """Whether this process may mount a file system."""
    here = Path("/proc/self/status").read_text()
    capable = int(here.split("CapEff:")[1].split()[0], 16)
    return bool(capable >> 21 & 1)  # CAP_SYS_ADMIN


def starved(room: Room, server: Server, job: Job, how: str, size: int, answer: Any) -> Trial:
    """One trial: the job with too little room, then with enough."""
    place = room.place()
    kind = "full disk: tmpfs" if how == "full" else "full disk: RLIMIT_FSIZE"
    if how == "full":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "attack", str(place)], check=True)
    try:
        faults = {"fsize": size} if how == "fsize" else {}
        first = server.call(job.call(room.victims, place), **faults)
        if how == "full":
            subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        verdict, reason = afterwards(room, server, job, place, first, answer)
    finally:
        if how == "full":
            subprocess.run(["umount", "-l", str(place)], check=True)
        drop(place)
    return Trial(kind, f"{job.name} with {size:,} bytes", verdict, reason)


def afterwards(room: Room, server: Server, job: Job, place: Path, first: Outcome, answer: Any) -> tuple[str, str]:
    """Judges by what the first attempt said and by what the same command makes of it afterwards."""
    if bad := failed(first):
        return bad, first.reason
    last = server.call(job.call(room.victims, place)) if first.code else first
    if bad := failed(last):
        return bad, f"with room again: {last.reason}"
    now = server.call(job.answer(place))
    if now.code or now.answer != answer:
        return ("wrong refusal" if last.code else "silent"), f"{first.reason} | {last.reason} | {now.reason}"
    return ("noticed" if first.code else "harmless"), first.reason
