"""Odd pages of web archives, and odd names of files: what goes in comes out as text, or in quarantine."""

import gzip
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import zstandard

from benchmarks.attack.children import Server
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop

Page = tuple[str, bytes]  # headers of the response, body as it is sent


def chunked(body: bytes, size: int = 100) -> bytes:
    """A body in HTTP chunks."""
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def raw_deflate(body: bytes) -> bytes:
    """Deflate without zlib's frame."""
    made = zlib.compressobj(wbits=-15)
    return made.compress(body) + made.flush()


def headers(encoding: str = "", transfer: str = "", kind: str = "text/html; charset=utf-8", length: int = -1) -> str:
    """The headers of a response."""
    lines = [f"Content-Type: {kind}"]
    lines += [f"Content-Encoding: {encoding}"] if encoding else []
    lines += [f"Transfer-Encoding: {transfer}"] if transfer else []
    return "\r\n".join(lines + ([f"Content-Length: {length}"] if length >= 0 else []))


ODD: dict[str, Callable[[bytes], Page]] = {
    "gzip": lambda b: (headers("gzip"), gzip.compress(b)),
    "chunked": lambda b: (headers(transfer="chunked"), chunked(b)),
    "chunked and gzip": lambda b: (headers("gzip", "chunked"), chunked(gzip.compress(b))),
    "already dechunked": lambda b: (headers(transfer="chunked"), b),
    "gzip over plain": lambda b: (headers("gzip"), b),
    "x-gzip": lambda b: (headers("x-gzip"), gzip.compress(b)),
    "deflate": lambda b: (headers("deflate"), zlib.compress(b)),
    "raw deflate": lambda b: (headers("deflate"), raw_deflate(b)),
    "br": lambda b: (headers("br"), bytes(random.Random(1).randrange(256) for _ in range(300))),
    "zstd": lambda b: (headers("zstd"), b"\x28\xb5\x2f\xfd" + b[:100]),
    "gzip cut": lambda b: (headers("gzip"), gzip.compress(b)[: len(gzip.compress(b)) // 2]),
    "gzip flipped": lambda b: (headers("gzip"), flipped(gzip.compress(b))),
    "chunks cut": lambda b: (headers(transfer="chunked"), chunked(b)[:-20]),
    "chunks of a wrong size": lambda b: (headers(transfer="chunked"), b"fffff\r\n" + b + b"\r\n0\r\n\r\n"),
    "gzip twice": lambda b: (headers("gzip, gzip"), gzip.compress(gzip.compress(b))),
    "an unknown encoding": lambda b: (headers("rot13"), b),
    "identity": lambda b: (headers("identity"), b),
    "an unknown charset": lambda b: (headers(kind="text/html; charset=klingon-8"), b),
    "a wrong length": lambda b: (headers(length=len(b) + 1000), b),
    "empty": lambda b: (headers(), b""),
    "no header at all": lambda b: ("", b),
    "broken header": lambda b: ("Content-Type text/html\r\n\x00: \xff", b),
}


def plain(page: bytes) -> Page:
    """A page as most servers send it."""
    return headers(length=len(page)), page


def flipped(data: bytes) -> bytes:
    """A byte in the middle is another."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def record(number: int, page: Page, status: str = "HTTP/1.1 200 OK") -> bytes:
    """A response record."""
    http = f"{status}\r\n{page[0]}\r\n\r\n".encode("latin-1") + page[1]
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.org/{number}\r\n"
        f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return head.encode() + http + b"\r\n\r\n"


def body(number: int) -> bytes:
    """A page whose text is known by its number."""
    text = f"Page mark{number}x tells of rivers, roads and towns at some length. " * 12
    return f"<html><head><title>t</title></head><body><p>{text}</p></body></html>".encode()


def attack(room: Room) -> list[Trial]:
    """Archives with one odd page each, then archives with many, and folders with odd names."""
    todo: list[tuple[str, list[str], str]] = []
    for name in ODD:
        for suffix in (".warc", ".warc.gz"):
            todo.append(("WARC: one odd page", ["plain", "plain", name, *["plain"] * 4], suffix))
    for i in range(room.trials):
        kinds = [room.rng.choice(["plain", *ODD]) for _ in range(12)]
        todo.append(("WARC: many odd pages", kinds, (".warc", ".warc.gz")[i % 2]))
    trials = room.children.each(lambda server, item: archive(room, server, *item), todo)
    names = ("x.json.gz", "x.json", "x.JSONL", "x.jsonl.bz2", "x.jsonl.gz.part", "x.txt", "x.warc.wet.gz", "x.csv")
    return trials + room.children.each(lambda server, name: named(room, server, name), names)


def archive(room: Room, server: Server, kind: str, pages: list[str], suffix: str) -> Trial:
    """One trial: the archive is extracted; every page must be accounted for, plain ones as text."""
    place = room.place()
    made = [record(i, ODD.get(name, plain)(body(i))) for i, name in enumerate(pages)]
    data = b"".join(gzip.compress(r) for r in made) if suffix.endswith("gz") else b"".join(made)
    (place / f"in{suffix}").write_bytes(data)
    outcome = server.call(["command", "jaxpt-data", "extract", f"--input={place}/in{suffix}", f"--output={place}/out"])
    verdict, reason = failed(outcome), outcome.reason
    if verdict is None and outcome.code:
        verdict = "wrong refusal"
    if verdict is None:
        texts, aside, removed = (lines(place / "out" / n) for n in ("", "quarantine", "removals"))
        missing = [i for i, p in enumerate(pages) if p == "plain" and not any(f"mark{i}x" in t for t in texts)]
        accounted = len(texts) + len(aside) + len(removed)
        reason = f"{len(pages)} pages: {len(texts)} texts, {len(aside)} in quarantine; plain ones missing: {missing}"
        verdict = "silent" if missing or accounted != len(pages) else "noticed" if aside else "harmless"
    drop(place)
    return Trial(kind, f"{suffix}: {', '.join(pages)}", verdict, reason)


def lines(folder: Path) -> list[str]:
    """Lines of the record files that lie in a folder."""
    out: list[str] = []
    for file in sorted(folder.glob("*.jsonl*")) if folder.is_dir() else []:
        data = file.read_bytes()
        if file.suffix == ".zst":
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        out += (gzip.decompress(data) if file.suffix == ".gz" else data).decode().splitlines()
    return out


def named(room: Room, server: Server, name: str) -> Trial:
    """A folder holds a file with an odd name beside a usual one: its records come through, or it is named."""
    place = room.place()
    folder = place / "in"
    folder.mkdir()
    text = "The town has a road to the river and that is of use. " * 12
    rows = [json.dumps({"text": f"mark{i}x {text}"}) for i in "01"]
    (folder / "usual.jsonl").write_text(rows[0] + "\n")
    data = (rows[1] + "\n").encode()
    if name.endswith("wet.gz"):
        page = b"mark1x a text of a page\n"
        head = (
            f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: http://example.org/\r\n"
            f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000000>\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(page)}\r\n\r\n"
        )
        data = head.encode() + page + b"\r\n\r\n"
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    command = ["command", "jaxpt-data", "clean", f"--input={folder}", f"--output={place}/out", "--preset=gopher"]
    outcome = server.call(command)
    found = [*lines(place / "out"), *lines(place / "out" / "removals"), *lines(place / "out" / "quarantine")]
    verdict, reason = failed(outcome), outcome.reason
    if verdict is None and outcome.code == 0:
        said = name in outcome.text
        read = any("mark1x" in line for line in found)
        verdict = "harmless" if read else "noticed" if said else "silent"
        reason = "read" if read else outcome.text[-200:]
    drop(place)
    return Trial("odd names of files", name, verdict or "noticed", reason)
