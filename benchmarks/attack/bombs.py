"""Data that grows when it is read: lines, values, pages, nesting. It goes to quarantine, the rest goes on."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks.attack.archives import lines, record
from benchmarks.attack.children import Server
from benchmarks.attack.hostile import SOON
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import LENGTH

MEMORY = 2 << 30  # bytes that a child may take besides what it has
GOOD = "The town has a road to the river and that is of use with all that the people have in it. " * 8
BIG = 150 << 20  # characters, more than may be read


def good(mark: str) -> bytes:
    """A line with a usual record."""
    return (json.dumps({"text": f"{mark} {GOOD}"}) + "\n").encode()


def around(middle: Iterable[bytes]) -> Iterable[bytes]:
    """Parts of a file with a usual record before and behind."""
    return (good("first"), *middle, good("last"))


def long_line() -> Iterable[bytes]:
    """A line of `BIG` characters."""
    return around([b'{"text": "', *[b"x" * (1 << 20)] * (BIG >> 20), b'"}\n'])


def write(name: str, parts: Iterable[bytes], place: Path) -> None:
    """Writes a file, compressed as its name says."""
    with (place / name).open("wb") as raw:
        if name.endswith(".gz"):
            with gzip.GzipFile("", "wb", 1, raw) as file:
                file.writelines(parts)
        elif name.endswith(".zst"):
            with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as file:
                for part in parts:
                    file.write(part)
        else:
            raw.writelines(parts)


def table(texts: list[str], place: Path, dictionary: bool, groups: int) -> None:
    """Writes texts as Parquet between two usual ones, in row groups of `groups` rows."""
    rows = pa.table({"text": pa.array([f"first {GOOD}", *texts, f"last {GOOD}"], pa.large_string())})
    pq.write_table(rows, place / "in.parquet", compression="zstd", use_dictionary=dictionary, row_group_size=groups,
                   write_statistics=False, dictionary_pagesize_limit=1 << 30)  # fmt: skip


def pages(place: Path) -> None:
    """A web archive whose second page is `BIG` bytes and whose third is nested deep."""
    bodies = [f"<p>first {GOOD}</p>".encode(), b"<p>" + b"x" * BIG + b"</p>", b"<div>" * 40_000 + b"x",
              f"<p>last {GOOD}</p>".encode()]  # fmt: skip
    headers = "Content-Type: text/html"
    write("in.warc.gz", [record(i, (headers, body)) for i, body in enumerate(bodies)], place)


def html(depth: int, tag: str = "div") -> Iterable[bytes]:
    """A record with a page nested `depth` deep."""
    return around([(json.dumps({"text": f"<{tag}>" * depth + "x"}) + "\n").encode()])


DEEP = b'{"text": "x", "more": ' + b"[" * 900 + b"]" * 900 + b"}\n"
WITHOUT_END = b'{"text": "x", "more": ' + b"[" * 10**6 + b"\n"
LONE = b'{"text": "one half of a pair: \\ud83d", "source": "\\udc00"}\n'
BOMBS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "gz, one line": (lambda p: write("in.jsonl.gz", long_line(), p), ("pack", "tokenize", "clean")),
    "zst, one line": (lambda p: write("in.jsonl.zst", long_line(), p), ("pack", "tokenize", "clean")),
    "plain, one line": (lambda p: write("in.jsonl", long_line(), p), ("pack", "tokenize")),
    "Parquet, one value": (lambda p: table(["x" * BIG], p, False, 1), ("pack", "tokenize", "clean")),
    "Parquet, one value many times": (lambda p: table(["x" * (12 << 20)] * 50, p, True, 10**6), ("pack", "clean")),
    "WARC, one page": (pages, ("extract",)),
    "HTML, nested": (lambda p: write("in.jsonl", html(40_000), p), ("extract",)),
    "HTML, nested formatting": (lambda p: write("in.jsonl", html(40_000, "font"), p), ("extract",)),
    "JSON, nested": (lambda p: write("in.jsonl", around([DEEP]), p), ("pack", "tokenize", "clean")),
    "JSON, without end": (lambda p: write("in.jsonl", around([WITHOUT_END]), p), ("pack", "tokenize", "clean")),
    "half of a pair": (lambda p: write("in.jsonl", around([LONE]), p), ("pack", "tokenize", "clean")),
}


def attack(room: Room) -> list[Trial]:
    """Each bomb once for each command; chance plays no part."""
    todo = [(name, make, command) for name, (make, commands) in BOMBS.items() for command in commands]
    return room.children.each(lambda server, item: one(room, server, *item), todo)


def one(room: Room, server: Server, name: str, make: Callable[[Path], None], command: str) -> Trial:
    """One trial: the command ends well, and both usual records come through."""
    place = room.place()
    (place / "in").mkdir()
    make(place / "in")
    call = ["command", "jaxpt-data", command, f"--input={place}/in", f"--output={place}/out"]
    call += [f"--tokenizer={room.victims.folder}/tokenizer.model"] * (command in ("pack", "tokenize"))
    call += {"pack": [f"--sequence_length={LENGTH}", "--quarantine_limit=1"], "clean": ["--preset=gopher"]}.get(
        command, []
    )
    outcome = server.call(call, memory=MEMORY, limit=120)
    verdict, reason = failed(outcome), outcome.reason
    if verdict is None and outcome.seconds > 2 * SOON:
        verdict, reason = "hang", f"{outcome.seconds:.0f} s"
    if verdict is None and outcome.code:
        verdict = "wrong refusal"
    if verdict is None:
        aside = lines(place / "out" if command == "pack" else place / "out" / "quarantine")
        verdict = "noticed" if aside else "harmless"
        reason = f"{outcome.seconds:.1f} s; {aside[0][:200]}" if aside else outcome.text[-200:]
        if command in ("clean", "extract"):
            texts = "".join([*lines(place / "out"), *lines(place / "out" / "removals")])
            verdict = verdict if "first " in texts and "last " in texts else "silent"
    drop(place)
    return Trial("bombs", f"{name}: {command}", verdict, reason)
