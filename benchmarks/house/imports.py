"""Which rooms import which, read from the code with `ast`: nothing is imported."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGES = ("jaxpt", "data_tools")
ENTRY = "jaxpt/cli/__init__.py"  # where the console script begins: it joins the rooms, as `jaxpt/__main__.py` does


def python_files(checkout: Path, packages: Iterable[str] = PACKAGES) -> list[Path]:
    """Returns the packages' Python files, sorted."""
    return sorted(path for package in packages for path in (checkout / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Returns the modules of `PACKAGES` that a file imports at any depth; `from a.b import c` gives `a.b`, `a.b.c`."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {node.module} if "." in node.module else set()
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {module for module in modules if module.split(".")[0] in PACKAGES}


def room_of(path: Path, checkout: Path) -> str:
    """Returns where a file is: "jaxpt/data", "data_tools/clean"; a module at the root of a package "jaxpt/api"."""
    if path == checkout / ENTRY:
        return "jaxpt/__main__"
    return "/".join(path.relative_to(checkout).with_suffix("").parts[:2])


def room_named(module: str, checkout: Path) -> str:
    """Returns the room of an imported module: "jaxpt/data" for `jaxpt.data.packed`, "jaxpt/__init__" for `jaxpt`."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0] or "__init__"
    place = checkout / package / name
    if place.is_dir() or place.with_suffix(".py").is_file():
        return f"{package}/{name}"
    return f"{package}/__init__"  # a name that the package itself hands out


def room_imports(checkout: Path) -> dict[str, set[str]]:
    """Returns, for each room, the other rooms that its files import."""
    out: dict[str, set[str]] = {}
    for path in python_files(checkout):
        room = room_of(path, checkout)
        named = {room_named(module, checkout) for module in imports(path)}
        out.setdefault(room, set()).update(named - {room})
    return out


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Returns each room's floor: 0 imports no other room; every other stands one above the highest that it imports.

    Raises:
        ValueError: rooms that import each other in a circle, named.
    """
    height: dict[str, int] = {}

    def climb(room: str, way: tuple[str, ...]) -> int:
        if room in way:
            raise ValueError(f"rooms import each other in a circle: {' -> '.join([*way[way.index(room) :], room])}")
        if room not in height:
            height[room] = 1 + max((climb(below, (*way, room)) for below in graph.get(room, ())), default=-1)
        return height[room]

    for room in graph:
        climb(room, ())
    return height


def direct(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Returns the imports that no chain of others implies (the transitive reduction of a graph without circles)."""

    def reach(room: str) -> set[str]:
        return set().union(*({below} | reach(below) for below in graph.get(room, ())))

    beyond = {room: set().union(*(reach(below) for below in graph[room])) for room in graph}
    return {room: graph[room] - beyond[room] for room in graph}
