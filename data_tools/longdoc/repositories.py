"""Join the files of a repository into long documents: what is imported comes before what imports it."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import basename, splitext
from typing import TypeVar

from data_tools.longdoc.imports import RESOLVERS, dependencies
from jaxpt.errors import JaxptError

Node = TypeVar("Node", str, int)

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
    """Returns all paths: README first, then code with what is imported before what imports it, then everything else.

    Files that import each other in a circle stand together, behind everything that the circle imports; inside it, the
    file with the fewest missing dependencies is taken first (DeepSeek-Coder, section 2.2). Among circles and files that
    are ready, the smaller path comes first.
    """
    found = dependencies(files)
    readme = sorted(p for p in files if basename(p).lower().startswith("readme") and "/" not in p)
    imported = {need for needs in found.values() for need in needs}  # a file of data may be imported, too
    code = sorted(p for p in files if (splitext(p)[1].lower() in RESOLVERS or p in imported) and p not in readme)
    needs = {path: found[path].difference(readme) for path in code}
    circles = _circles(needs)
    done = [path for n in _fewest_missing_first(_between(circles, needs)) for path in _inside(circles[n], needs)]
    return readme + done + sorted(set(files) - set(done) - set(readme))


def _circles(needs: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the strongly connected components, each sorted, by their smallest path; most are one file alone."""
    from scipy.sparse import csr_array  # 0.2 s, which the other ways to long documents do not need
    from scipy.sparse.csgraph import connected_components

    if not needs:
        return []
    place = {path: i for i, path in enumerate(needs)}
    edges = [(place[path], place[need]) for path, wanted in needs.items() for need in sorted(wanted)]
    rows, columns = zip(*edges) if edges else ((), ())
    graph = csr_array(([1] * len(edges), (list(rows), list(columns))), shape=(len(needs), len(needs)))
    _, labels = connected_components(graph, directed=True, connection="strong")
    circles: dict[int, list[str]] = {}
    for path, label in zip(needs, labels.tolist()):
        circles.setdefault(label, []).append(path)
    return sorted(sorted(circle) for circle in circles.values())


def _between(circles: list[list[str]], needs: Mapping[str, set[str]]) -> dict[int, set[int]]:
    """Returns, for every circle by its number, the numbers of the others that it imports."""
    number = {path: n for n, circle in enumerate(circles) for path in circle}
    return {n: {number[need] for path in circle for need in needs[path]} - {n} for n, circle in enumerate(circles)}


def _inside(circle: list[str], needs: Mapping[str, set[str]]) -> list[str]:
    return _fewest_missing_first({path: needs[path].intersection(circle) for path in circle})


def _fewest_missing_first(needs: Mapping[Node, set[Node]]) -> list[Node]:
    """Returns all keys, each time the one of which the fewest needs are missing, then the smallest.

    Without a circle nothing is ever missing.
    """
    users: dict[Node, list[Node]] = {}
    for node in needs:
        for need in needs[node]:
            users.setdefault(need, []).append(node)
    missing = {node: len(needs[node]) for node in needs}
    heap = [(count, node) for node, count in missing.items()]
    heapq.heapify(heap)
    done: dict[Node, None] = {}
    while heap:
        count, node = heapq.heappop(heap)
        if node in done or count != missing[node]:
            continue
        done[node] = None
        for user in users.get(node, ()):
            if user not in done:
                missing[user] -= 1
                heapq.heappush(heap, (missing[user], user))
    return list(done)


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
