"""Files that cannot be read for a moment: rights, EIO, ESTALE, no memory, too many open files. Nothing may be lost."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.attack.children import Server
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import SAVE

NOBODY = 65534
ERRORS = (errno.EIO, errno.ESTALE, errno.ENOMEM)
FORBIDDEN = (
    f"checkpoints/{2 * SAVE}/params/**/d/*", "checkpoints/*/params/**/*", f"checkpoints/{2 * SAVE}/run/*",
    "checkpoints/*/run/*", "checkpoints/*/opt_state/**/*.ocdbt", "checkpoints/*", "metrics.jsonl", "config.json",
    "lineage.json", "tokenizer/*",
)  # fmt: skip
OPENED = ("/run/", "_METADATA", "_CHECKPOINT_METADATA", "metrics.jsonl", "config.json", "lineage.json", "tokenizer/")


def attack(room: Room) -> list[Trial]:
    """Resumes a run whose files cannot be read, then resumes it again as it was."""
    place = room.copy(room.victims.stopped)
    answer = room.children.call(room.victims.train(place), ["state", str(place)]).answer
    todo: list[tuple[str, dict[str, Any], str]] = []
    for i in range(room.trials):
        if os.geteuid() == 0:
            todo.append(("unreadable: rights", {"uid": NOBODY}, FORBIDDEN[i % len(FORBIDDEN)]))
        todo.append(("unreadable: EIO, ESTALE, ENOMEM in the kernel", {"pread": ERRORS[i % 3]}, ""))
        todo.append(
            ("unreadable: EIO, ESTALE, ENOMEM in Python", {"open": [ERRORS[i % 3], OPENED[i % len(OPENED)]]}, "")
        )
        todo.append(("unreadable: too many open files", {"nofile": 20 + room.rng.randrange(25)}, ""))
    return room.children.each(lambda server, item: one(room, server, *item, answer), todo)


def one(room: Room, server: Server, kind: str, faults: dict[str, Any], pattern: str, answer: Any) -> Trial:
    """One trial; what counts first is that checkpoints keep their names and metrics their lines."""
    copy = room.copy(room.victims.stopped)
    modes: dict[Path, int] = {}
    if "uid" in faults:
        for path in (copy, *copy.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        copy.parent.chmod(0o755)
        modes = {p: p.stat().st_mode for p in copy.glob(pattern)}
        for path in modes:
            path.chmod(0)
    before = kept(copy)
    first = server.call(room.victims.train(copy), **faults)
    for path, mode in modes.items():
        if path.exists():
            path.chmod(mode)
    lost = before[0] - kept(copy)[0]
    cut = not kept(copy)[1].startswith(before[1]) and first.code != 0
    verdict, reason = failed(first), first.reason
    if verdict is None and (lost or cut):
        verdict, reason = "silent", f"lost: checkpoints {sorted(lost)}" + ", records" * cut + f": {first.reason}"
    if verdict is None:
        last = server.call(room.victims.train(copy), ["state", str(copy)])
        verdict = failed(last)
        if verdict is None and last.code:
            verdict, reason = "wrong refusal", last.reason
        elif verdict is None:
            verdict = "silent" if last.answer != answer else "noticed" if first.code else "harmless"
    drop(copy.parent)
    return Trial(kind, f"train under {faults} {pattern}", verdict, reason)


def kept(run: Path) -> tuple[set[str], bytes]:
    """Names of the run's checkpoints as they were written, and its records up to the newest of them."""
    names = {p.name for p in (run / "checkpoints").iterdir() if p.name.isdigit()}
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    return names, b"".join(line for line in lines if json.loads(line)["step"] <= 2 * SAVE)
