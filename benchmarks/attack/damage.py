"""Bits flipped, digits altered, files cut or removed, in every kind of file that jaxpt reads again."""

import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.attack.children import Outcome, Server
from benchmarks.attack.judge import Trial, judge
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import LENGTH, SAVE, Victims

WAYS = ("bit", "digit", "cut", "gone")
Calls = Callable[[Victims, Path], list[list[Any]]]  # victims, the damaged copy -> what is done with it


def load(v: Victims, copy: Path) -> list[list[Any]]:
    """The model is loaded."""
    return [["load", str(copy)]]


def inspect(v: Victims, copy: Path) -> list[list[Any]]:
    """It is shown."""
    return [["command", "jaxpt", "inspect", str(copy)]]


def report(v: Victims, copy: Path) -> list[list[Any]]:
    """The run's report is written."""
    return [["command", "jaxpt", "report", f"--workdir={copy}"]]


def resume(v: Victims, copy: Path) -> list[list[Any]]:
    """The run goes on to its end."""
    return [v.train(copy), ["state", str(copy)]]


def rows(v: Victims, copy: Path) -> list[list[Any]]:
    """A packed source is opened and all of it read, as a run does (without `--verify`)."""
    return [["rows", str(copy)]]


def repack(v: Victims, copy: Path) -> list[list[Any]]:
    """Tokenized documents are packed."""
    out = f"--output={copy.parent / 'packed'}"
    pack = ["command", "jaxpt-data", "pack", f"--input={copy}", out, f"--sequence_length={LENGTH}"]
    return [pack, ["packed_below", str(copy.parent / "packed")]]


def cached(v: Victims, copy: Path) -> list[list[Any]]:
    """A source given as text is found in the cache."""
    return [["cached", str(v.text / "a.jsonl.gz"), LENGTH, str(v.folder / "tokenizer.model"), str(copy)]]


def go_on(v: Victims, copy: Path) -> list[list[Any]]:
    """A pipeline goes on after its first step."""
    run = ["command", "jaxpt-data", "run", f"--config={v.pipeline_config}", f"--workdir={copy}"]
    return [run, ["packed_below", str(copy / "pack")]]


@dataclass(frozen=True)
class Target:
    """A kind of file: its row in the table, its victim, where it lies there, and what reads it (in turns)."""

    kind: str
    victim: str
    patterns: tuple[str, ...]
    readers: tuple[Calls, ...]
    optional: bool = False  # not there where older code wrote the victim


NEWEST = f"checkpoints/{2 * SAVE}"
TARGETS = (
    Target("checkpoint: parameters", "stopped", (f"{NEWEST}/params/**/d/*",), (load, resume)),
    Target("checkpoint: moments", "stopped", (f"{NEWEST}/opt_state/**/d/*",), (resume,)),
    Target("checkpoint: run item", "stopped", (f"{NEWEST}/run/*",), (resume, load, inspect)),
    Target(
        "checkpoint: Orbax metadata", "stopped",
        (f"{NEWEST}/**/*METADATA", f"{NEWEST}/**/_sharding", f"{NEWEST}/**/*.ocdbt", f"{NEWEST}/**/array_metadatas/*"),
        (resume, load),
    ),
    Target("run: config.json", "stopped", ("config.json",), (resume, load)),
    Target("run: model.json", "stopped", ("model.json",), (resume, load, inspect)),
    Target("run: lineage.json", "stopped", ("lineage.json",), (resume, load, inspect)),
    Target("run: tokenizer", "stopped", ("tokenizer/*",), (resume, load)),
    Target("run: metrics.jsonl", "stopped", ("metrics.jsonl",), (resume, report)),
    Target("run: events.jsonl", "stopped", ("events.jsonl",), (resume, report)),
    Target("run: digests.json", "stopped", ("digests.json",), (resume, load, inspect), optional=True),
    Target("bundle: digests.json", "bundle", ("digests.json",), (load, inspect), optional=True),
    Target("bundle: parameters", "bundle", ("params/**/c/**/*", "params/**/c"), (load,)),
    Target("bundle: zarr.json", "bundle", ("params/**/zarr.json",), (load,)),
    Target("bundle: model.json, digests", "bundle", ("model.json",), (load, inspect)),
    Target("bundle: lineage.json", "bundle", ("lineage.json",), (load, inspect)),
    Target("bundle: tokenizer", "bundle", ("tokenizer/*",), (load,)),
    Target("packed: source.json", "packed/a", ("source.json",), (rows,)),
    Target("packed: columns (.npy)", "packed/a", ("*.npy",), (rows,)),
    Target("packed: records", "packed/a", ("*.array_record",), (rows,)),
    Target("tokenized: tokenized.json", "tokens", ("tokenized.json",), (repack,)),
    Target("tokenized: shards", "tokens", ("*.parquet",), (repack,)),
    Target("tokenized: tokenizer", "tokens", ("tokenizer/*",), (repack,)),
    Target("cache entry", "cache", ("*/*", "*.json"), (cached,)),
    Target("pipeline: shards, compressed", "begun", ("clean/*.jsonl.zst",), (go_on,)),
    Target("pipeline: shards, plain", "begun", ("clean/*.jsonl",), (go_on,)),
    Target("pipeline: notes", "begun", ("clean/manifests/*", "steps/*", "clean/*.json"), (go_on,)),
)  # fmt: skip


def hurt(file: Path, way: str, rng: random.Random) -> str:
    """Damages a file in one way (a way that it has no place for becomes a flipped bit); says what was done."""
    data = bytearray(file.read_bytes())
    digits = [m.start() for m in re.finditer(rb"[0-9]", data)] if file.suffix in (".json", ".jsonl", "") else []
    if way == "gone" or not data:
        file.unlink()
        return "removed"
    if way == "cut":
        size = rng.randrange(len(data))
        file.write_bytes(data[:size])
        return f"cut to {size} of {len(data)} bytes"
    if way == "digit" and digits:
        at = rng.choice(digits)
        new = rng.choice([d for d in b"0123456789" if d != data[at]])
        what = f"digit {chr(data[at])} to {chr(new)} at {at}: {bytes(data[max(at - 20, 0) : at + 5])!r}"
        data[at] = new
    else:
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        data[at] ^= 1 << bit
        what = f"bit {bit} at {at} flipped"
    file.write_bytes(data)
    return what


def files_of(target: Target, folder: Path) -> list[Path]:
    """The files of a target, in order."""
    return sorted({f for p in target.patterns for f in folder.glob(p) if f.is_file()})


def seen(outcome: Outcome, copy: Path) -> Any:
    """The answer; of a command that only prints, what it printed, the copy's own path left out."""
    return outcome.out.replace(str(copy.parent), "") if outcome.answer == 0 else outcome.answer


def attack(room: Room, targets: Sequence[Target] = TARGETS) -> list[Trial]:
    """Damages copies, a file each, and lets the readers of each kind of file judge."""
    make_begun(room)
    targets = [t for t in targets if not t.optional or files_of(t, room.victims.folder / t.victim)]
    jobs = []
    for target in targets:
        for i in range(room.trials):
            jobs.append((target, WAYS[i % 4], target.readers[(i // 4 + i) % len(target.readers)], room.rng.random()))
    expected: dict[tuple[str, str], Any] = {}
    for target in targets:
        for reader in target.readers:
            if (target.kind, reader.__name__) not in expected:
                copy = room.copy(room.victims.folder / target.victim)
                outcome = room.children.call(*reader(room.victims, copy))
                if outcome.code:
                    raise SystemExit(f"{target.victim}, {reader.__name__} fails undisturbed: {outcome.text[-1000:]}")
                expected[target.kind, reader.__name__] = judged_part(target, outcome, copy)
                drop(copy.parent)

    def one(server: Server, job: tuple[Target, str, Calls, float]) -> Trial:
        target, way, reader, seed = job
        rng = random.Random(seed)
        copy = room.copy(room.victims.folder / target.victim)
        if not (files := files_of(target, copy)):
            raise SystemExit(f"{target.kind}: the victim has no such file ({', '.join(target.patterns)})")
        file = rng.choice(files)
        what = f"{reader.__name__} after {file.relative_to(copy)}: {hurt(file, way, rng)}"
        outcome = server.call(*reader(room.victims, copy))
        verdict = judge(replaced(outcome, judged_part(target, outcome, copy)), expected[target.kind, reader.__name__])
        drop(copy.parent)
        return Trial(target.kind, what, verdict, outcome.reason or outcome.out[-200:])

    return room.children.each(one, jobs)


def judged_part(target: Target, outcome: Outcome, copy: Path) -> Any:
    """What must be as undisturbed: metrics and events carry no digest, so that only the run's values count there."""
    answer = seen(outcome, copy)
    if target.kind in ("run: metrics.jsonl", "run: events.jsonl"):
        return answer["final"] if isinstance(answer, dict) else None
    return answer


def replaced(outcome: Outcome, answer: Any) -> Outcome:
    """The outcome with another answer."""
    return Outcome(outcome.code, outcome.out, outcome.err, answer, outcome.hung, outcome.seconds)


def make_begun(room: Room) -> None:
    """Makes the victim `begun`: the pipeline as it was after its first step."""
    v = room.victims
    if v.begun.exists():
        return
    shutil.copytree(v.pipeline, v.begun)
    for name in ("dedup", "tokenize", "pack"):
        shutil.rmtree(v.begun / name, ignore_errors=True)
        (v.begun / "steps" / f"{name}.json").unlink(missing_ok=True)
