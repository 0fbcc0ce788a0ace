"""The help of a command without its imports, which take seconds: a name is imported where the help itself uses it."""

import __future__

import ast
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether the arguments of a command ask for its help, and for nothing else."""
    before = args[: args.index("--")] if "--" in args else args
    return "--help" in before or "-h" in before


def main_for_help(file: Path) -> Callable[[Sequence[str]], int] | None:
    """Returns the `main` of a command's module as its file has it, good for showing its help.

    None: it defines none, or one that uses a class of its module, whose fields are the command's flags.

    It, a `_parser` of its module and the module's constants are taken, nothing else. What the file imports is imported
    at the first use of its name, so that a `main` which first parses its arguments imports little but the parser.
    """
    body = ast.parse(file.read_text(encoding="utf-8"), str(file)).body
    mains = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    if not mains:
        return None
    functions = [*(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "_parser"), *mains]
    own = {node.name for node in body if isinstance(node, ast.ClassDef)}
    if any(isinstance(node, ast.Name) and node.id in own for one in functions for node in ast.walk(one)):
        return None
    kept = [*(node for node in body if isinstance(node, ast.Assign | ast.AnnAssign)), *functions]
    names = _Names(file, {key: place for node in body for key, place in _imported(node).items()})
    code = compile(ast.Module([*kept], []), str(file), "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    exec(code, names)  # a file of this package
    return names["main"]


class _Names(dict[str, Any]):
    """The names of a module; what it imports is imported when a name is first asked for."""

    def __init__(self, file: Path, imports: dict[str, tuple[str, str]]):
        super().__init__(__name__=__name__, __file__=str(file))
        self._imports = imports

    def __missing__(self, key: str) -> Any:
        module, attribute = self._imports[key]  # a KeyError: Python looks among its own names
        found = importlib.import_module(module)
        if attribute and not hasattr(found, attribute):
            found, attribute = importlib.import_module(f"{module}.{attribute}"), ""
        self[key] = getattr(found, attribute) if attribute else found
        return self[key]


def _imported(node: ast.stmt) -> dict[str, tuple[str, str]]:
    """The names that an import statement binds, each with its module and the attribute of it that it is."""
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    if isinstance(node, ast.Import):
        tops = [alias.name if alias.asname else alias.name.partition(".")[0] for alias in node.names]
        return {alias.asname or top: (top, "") for alias, top in zip(node.names, tops)}
    return {}
