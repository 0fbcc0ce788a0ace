"""Join the files of a repository into long documents: what is imported comes before what imports it."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import basename, splitext

from data_tools.longdoc.imports import RESOLVERS, dependencies
from jaxpt.errors import JaxptError

_HASH = (
    ".py",
    ".pyi",
    ".sh",
    ".rb",
    ".toml",
    ".yml",
    ".yaml",
    ".cfg",
    ".ini",
    ".r",
    ".jl",
    ".pl",
    ".mk",
    ".cmake",
    ".txt",
)
_ANGLE = (".md", ".html", ".xml", ".vue", ".svg")
_DASH = (".sql", ".lua", ".hs")
_RST = (".rst",)


def header(path: str) -> str:
    """Returns the line that names a file inside a joined document, a comment in its language where that is known."""
    end = splitext(path)[1].lower()
    if end in _HASH or "." not in basename(path):
        return f"# {path}"
    if end in _ANGLE:
        return f"<!-- {path} -->"
    if end in _RST:
        return f".. {path}"
    return f"-- {path}" if end in _DASH else f"// {path}"


def order(files: Mapping[str, str]) -> list[str]:
    """Returns all paths: README first, then code with dependencies before dependents, then everything else.

    Among files that are ready the smaller path comes first. Where imports form a circle, the file with the fewest
    missing dependencies is taken (DeepSeek-Coder, section 2.2).
    """
    needs = dependencies(files)
    readme = sorted(p for p in files if basename(p).lower().startswith("readme") and "/" not in p)
    code = [p for p in files if splitext(p)[1].lower() in RESOLVERS]
    users: dict[str, list[str]] = {}
    for path in code:
        for need in needs[path]:
            users.setdefault(need, []).append(path)
    missing = {path: sum(need in needs for need in needs[path]) for path in code}
    heap = [(count, path) for path, count in missing.items()]
    heapq.heapify(heap)
    done: list[str] = []
    taken: set[str] = set()
    while heap:
        count, path = heapq.heappop(heap)
        if path in taken or count != missing[path]:
            continue
        taken.add(path)
        done.append(path)
        for user in users.get(path, []):
            if user not in taken:
                missing[user] -= 1
                heapq.heappush(heap, (missing[user], user))
    rest = sorted(set(files) - taken - set(readme))
    return readme + done + rest


@dataclass(frozen=True)
class Joined:
    """One long document and where its files begin."""

    text: str
    files: tuple[tuple[str, int], ...]  # path, first character


def join_repository(files: Mapping[str, str], max_chars: int = 0) -> list[Joined]:
    """Joins a repository into one document, or into several of at most `max_chars` characters cut between files.

    Args:
        files: path to text.
        max_chars: 0 for no limit; a single file beyond it stays whole, alone.

    Raises:
        JaxptError: a negative limit.
    """
    if max_chars < 0:
        raise JaxptError(f"longdoc: max_chars={max_chars} must be 0 (no limit) or more")
    out: list[Joined] = []
    parts: list[str] = []
    places: list[tuple[str, int]] = []
    size = 0
    for path in order(files):
        piece = f"{header(path)}\n{files[path].rstrip()}\n\n"
        if max_chars and parts and size + len(piece) > max_chars:
            out.append(Joined("".join(parts), tuple(places)))
            parts, places, size = [], [], 0
        places.append((path, size))
        parts.append(piece)
        size += len(piece)
    if parts:
        out.append(Joined("".join(parts), tuple(places)))
    return out
