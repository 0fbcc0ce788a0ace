"""Figures of the code: function lengths, files per room, annotations that are or hold `Any`, the reading order."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.house.imports import PACKAGES, python_files, room_of

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Annotation:
    """One place where a type is or should be: an argument, a return, a field of a class.

    `text` is the annotation, empty where there is none; `holds_any` says that it is or holds `Any`, `hides_any` that an
    alias in it does (`Params = Mapping[str, Any]`).
    """

    path: Path
    line: int
    kind: str
    name: str
    text: str
    holds_any: bool
    hides_any: bool


@dataclass(frozen=True)
class Length:
    """A function and its lines, the `def` line and the docstring included."""

    path: Path
    line: int
    name: str
    lines: int


def function_lengths(checkout: Path, packages: Sequence[str] = PACKAGES) -> list[Length]:
    """Returns every function, methods and inner ones included, the shortest first."""
    out = []
    for path in python_files(checkout, packages):
        for node in ast.walk(_tree(path)):
            if isinstance(node, Function):
                out.append(Length(path, node.lineno, node.name, (node.end_lineno or node.lineno) - node.lineno + 1))
    return sorted(out, key=lambda f: (f.lines, str(f.path), f.line))


def annotations(checkout: Path, packages: Sequence[str] = PACKAGES) -> list[Annotation]:
    """Returns every argument (but `self` and `cls`), return and class field, with its annotation."""
    files = python_files(checkout, packages)
    aliases = _aliases_of_any(files, checkout)
    return [a for path in files for a in _annotations_in(path, _known_here(path, checkout, aliases))]


def _annotations_in(path: Path, aliases: set[str]) -> Iterator[Annotation]:
    def place(line: int, kind: str, name: str, node: ast.expr | None) -> Annotation:
        names = set() if node is None else _names(node)
        text = "" if node is None else ast.unparse(node)
        return Annotation(path, line, kind, name, text, "Any" in names, bool(names & aliases))

    for node in ast.walk(_tree(path)):
        if isinstance(node, Function):
            own = node.args
            given = [*own.posonlyargs, *own.args, own.vararg, *own.kwonlyargs, own.kwarg]
            for a in given:
                if a is not None and a.arg not in ("self", "cls"):
                    yield place(a.lineno, "argument", f"{node.name}({a.arg})", a.annotation)
            if node.returns is not None or node.name != "__init__":
                yield place(node.lineno, "return", node.name, node.returns)
        elif isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    yield place(field.lineno, "field", f"{node.name}.{ast.unparse(field.target)}", field.annotation)


def _names(node: ast.expr) -> set[str]:
    """Names in an annotation, those in quotes included."""
    out = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            out.add(part.id)
        elif isinstance(part, ast.Attribute):
            out.add(part.attr)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            out |= set(re.findall(r"\w+", part.value))
    return out


def _aliases_of_any(files: Sequence[Path], checkout: Path) -> set[str]:
    """`module.NAME` of each alias at the top of a module that is written with `Any`, itself or through another."""
    written: dict[str, tuple[Path, set[str]]] = {}
    for path in files:
        for node in _tree(path).body:
            value = getattr(node, "value", None)
            if isinstance(node, ast.Assign) and isinstance(value, ast.Subscript | ast.BinOp):
                target = node.targets[0]
            elif isinstance(node, ast.AnnAssign) and "TypeAlias" in _names(node.annotation) and value is not None:
                target = node.target
            else:
                continue
            if isinstance(target, ast.Name) and target.id[:1].isupper() and not target.id.isupper():
                written[f"{_module(path, checkout)}.{target.id}"] = (path, _names(value))
    loose = {name for name, (_, names) in written.items() if "Any" in names}
    while True:
        more = {n for n, (path, names) in written.items() if names & _known_here(path, checkout, loose)} - loose
        if not more:
            return loose
        loose |= more


def _known_here(path: Path, checkout: Path, aliases: set[str]) -> set[str]:
    """The names under which a file knows some of the aliases: its own, and what it imports."""
    here = _module(path, checkout)
    out = {alias.rpartition(".")[2] for alias in aliases if alias.rpartition(".")[0] == here}
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom):
            out |= {a.asname or a.name for a in node.names if f"{node.module}.{a.name}" in aliases}
    return out


def _module(path: Path, checkout: Path) -> str:
    return ".".join(path.relative_to(checkout).with_suffix("").parts)


_trees: dict[Path, ast.Module] = {}


def _tree(path: Path) -> ast.Module:
    if path not in _trees:
        _trees[path] = ast.parse(path.read_text(encoding="utf-8"))
    return _trees[path]


def rooms(checkout: Path) -> Mapping[str, tuple[int, int]]:
    """Returns (files, lines) of each room."""
    out: dict[str, tuple[int, int]] = {}
    for path in python_files(checkout):
        room = room_of(path, checkout)
        files, lines = out.get(room, (0, 0))
        out[room] = (files + 1, lines + _lines(path))
    return out


def reading_order(checkout: Path) -> list[tuple[str, int]]:
    """Returns the files that README's numbered list says to read, with their lines."""
    text = (checkout / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Read .*?(?=^## )", text, re.M | re.S)
    named = re.findall(r"^\d+\. `([^`]+)`", section.group() if section else "", re.M)
    return [(name, _lines(checkout / name)) for name in named]


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")
