"""The laws of the house that a machine can check: rooms import downwards, files stay small, names stay public.

Each law is a function of a checkout that returns what breaks it; beside each law is a test that it can fail.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.house.imports import PACKAGES, imports, python_files, room_named, room_of
from benchmarks.house.picture import draw
from jaxpt.models.specs import flatten, param_specs
from tests.models.tiny import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
GROUND = "errors"  # imported by all
ROOMS = [  # from the ground up: a room imports only rooms before it
    "files",
    "config",
    "cli",
    "sharding",
    "kernels",
    "tokenizers",
    "models",
    "bundles",
    "reshape",
    "interop",
    "data",
    "optim",
    "objectives",
    "checkpoints",
    "generation",
    "serving",
    "evaluation",
    "training",
    "planning",
    "reporting",
    "sweeps",
]
ROOTS = ["api", "commands", "__main__", "__init__"]  # join the rooms; no room imports them
TREES = {
    "Params",
    "Specs",
    "Shardings",
}  # one meaning each, declared more narrowly where a room knows more of the leaves
COMMON_WORDS = {"q", "k", "v", "o", "gate", "up", "down"}  # names of parameters, and of other things
KNOWS_A_PARAMETER = ("next_token.py",)  # the output matrix, whose gradient it takes by itself
UNDER_DATA_TOOLS = ROOMS[: ROOMS.index("data") + 1]  # what raw text needs: nothing that trains


def _crossings(root: Path) -> list[tuple[Path, str, str]]:
    """(file, its room, imported room) for all imports of jaxpt or data_tools between two rooms."""
    out = []
    for path in python_files(root):
        room = room_of(path, root)
        targets = {room_named(module, root) for module in imports(path)} - {room}
        out += [(path.relative_to(root), room, target) for target in sorted(targets)]
    return out


def upward(root: Path) -> list[str]:
    """Imports of jaxpt that do not go towards the ground; rooms that have no place in the order."""
    wrong = []
    for path, room, target in _crossings(root):
        package, _, name = room.partition("/")
        if package != "jaxpt" or not target.startswith("jaxpt/") or target == f"jaxpt/{GROUND}":
            continue
        below = target.removeprefix("jaxpt/")
        if name in ROOMS:
            allowed = below in ROOMS[: ROOMS.index(name)]
        elif name == "commands":
            allowed = below in [*ROOMS, "api"]
        elif name == "api":  # reading a checkpoint needs nothing of training
            allowed = below in ROOMS[: ROOMS.index("training")]
        else:
            allowed = name in ROOTS
        if not allowed:
            wrong.append(f"{path} imports {target}")
    return wrong


def homeless(root: Path) -> list[str]:
    """Files of jaxpt that are in no room of the order."""
    known = {GROUND, *ROOMS, *ROOTS}
    rooms = {room_of(path, root).partition("/")[2] for path in python_files(root, ["jaxpt"])}
    return sorted(rooms - known)


def jaxpt_on_data_tools(root: Path) -> list[str]:
    """Imports of data_tools anywhere in jaxpt."""
    return [
        f"{path} imports {target}"
        for path, room, target in _crossings(root)
        if room.startswith("jaxpt/") and target.startswith("data_tools/")
    ]


def data_tools_above_the_data(root: Path) -> list[str]:
    """Imports of data_tools from jaxpt that raw text does not need: training, evaluation, commands, …"""
    allowed = {f"jaxpt/{name}" for name in (GROUND, *UNDER_DATA_TOOLS)}
    return [
        f"{path} imports {target}"
        for path, room, target in _crossings(root)
        if room.startswith("data_tools") and target.startswith("jaxpt/") and target not in allowed
    ]


def overgrown(root: Path) -> list[str]:
    """Files above 500 lines and functions above 60."""
    long = []
    for path in python_files(root):
        text = path.read_text()
        if text.count("\n") > 500:
            long.append(f"{path.relative_to(root)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60:
                long.append(f"{path.relative_to(root)}:{node.lineno} {node.name}")
    return long


def silent(root: Path) -> list[str]:
    """Modules, and public functions and classes in them, without a docstring."""
    out = []
    for path in python_files(root):
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            out.append(str(path.relative_to(root)))
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            overload = isinstance(node, ast.FunctionDef) and any(
                ast.unparse(d) == "overload" for d in node.decorator_list
            )
            if named and not overload and not ast.get_docstring(node):
                out.append(f"{path.relative_to(root)}:{node.lineno} {node.name}")
    return out


def _public_names(path: Path) -> list[tuple[str, str]]:
    """(name, definition) of each public class and type alias at the top of a module; a class is defined by its file."""
    out = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            out.append((node.name, f"class in {path}"))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            out.append((node.targets[0].id, ast.unparse(node.value)))
    return [(name, definition) for name, definition in out if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)]


def ambiguous(root: Path) -> list[str]:
    """Names that two public classes of jaxpt and data_tools share, or a class and a type alias, or two type aliases
    that differ: one meaning for each word."""
    definitions, files = defaultdict(set), defaultdict(list)
    for path in python_files(root):
        for name, definition in _public_names(path):
            definitions[name].add(definition)
            files[name].append(str(path.relative_to(root)))
    return [
        f"{name}: {', '.join(files[name])}"
        for name in sorted(files)
        if len(definitions[name]) > 1 and name not in TREES
    ]


def parameters_by_name(root: Path) -> list[str]:
    """Names of parameters written out in jaxpt beyond the rooms that declare, compute with or import them. Common words
    count within a path only."""
    leaves = {name for config in VARIANTS.values() for path in flatten(param_specs(config)) for name in path.split("/")}
    leaves -= {"blocks", "dense", "moe", "embed"}  # groups of the tree; `embed` is an axis too
    out = []
    for path in python_files(root, ["jaxpt"]):
        if room_of(path, root) in ("jaxpt/models", "jaxpt/interop") or path.name in KNOWS_A_PARAMETER:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
                names = {name for name in node.value.split("/") if "/" in node.value or name not in COMMON_WORDS}
                out += [f"{path.relative_to(root)}:{node.lineno} {name}" for name in sorted(names & leaves)]
    return out


LAWS: list[Callable[[Path], list[str]]] = [
    upward,
    homeless,
    jaxpt_on_data_tools,
    data_tools_above_the_data,
    overgrown,
    silent,
    ambiguous,
    parameters_by_name,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_house_keeps_its_law(law):
    assert not law(ROOT)


def planted(folder: Path, files: dict[str, str]) -> Path:
    """A checkout of the given files; every room that they name is there."""
    for name in [*ROOMS, "commands"]:
        (folder / "jaxpt" / name).mkdir(parents=True)
    (folder / "jaxpt" / "api.py").write_text('"""Loads."""\n')
    (folder / "jaxpt" / "errors.py").write_text('"""Planted."""\n\nclass Plan:\n    """Of a house."""\n')
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""Planted."""\n\n{text}\n')
    return folder


BREACHES = {
    "a room imports one above it": (upward, "jaxpt/models/x.py", "from jaxpt.training.step import f"),
    "config is really ground": (upward, "jaxpt/config/x.py", "from jaxpt.cli.dispatch import Parser"),
    "an import within a function counts": (upward, "jaxpt/data/x.py", "def f():\n    from jaxpt.training import y"),
    "a room imports a root": (upward, "jaxpt/evaluation/x.py", "from jaxpt import api"),
    "a room imports a command": (upward, "jaxpt/planning/x.py", "from jaxpt.commands.train import open_plan"),
    "a room takes a name from the package": (upward, "jaxpt/data/x.py", "from jaxpt import load"),
    "a root imports a command": (upward, "jaxpt/api.py", "from jaxpt.commands import train"),
    "reading a model needs training": (upward, "jaxpt/api.py", "from jaxpt.training.state import State"),
    "a room nobody has placed": (homeless, "jaxpt/helpers/x.py", ""),
    "a loose module": (homeless, "jaxpt/config_file.py", ""),
    "a command imports data_tools": (
        jaxpt_on_data_tools,
        "jaxpt/commands/x.py",
        "from data_tools.commands.inspect import f",
    ),
    "a room imports the other package": (jaxpt_on_data_tools, "jaxpt/data/x.py", "import data_tools"),
    "data_tools trains": (data_tools_above_the_data, "data_tools/clean/x.py", "import jaxpt.training.step"),
    "data_tools loads by the api": (data_tools_above_the_data, "data_tools/x.py", "from jaxpt.api import load"),
    "a long function": (overgrown, "jaxpt/data/x.py", "def f():\n" + "    pass\n" * 61),
    "a long file": (overgrown, "data_tools/x.py", "x = 1\n" * 501),
    "a class without a docstring": (silent, "jaxpt/data/x.py", "class Thing: ..."),
    "two classes of one name": (ambiguous, "data_tools/x.py", 'class Plan:\n    """Of a run."""'),
    "a parameter by its name": (parameters_by_name, "jaxpt/reshape/x.py", 'a = params["final_norm"]'),
    "a parameter by its path": (parameters_by_name, "jaxpt/optim/x.py", 'a = flat["blocks/dense/q"]'),
    "a class and an alias of one name": (ambiguous, "jaxpt/data/x.py", "Plan = tuple[int, str]"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_law_can_fail(breach, tmp_path):
    law, name, text = BREACHES[breach]
    broken = law(planted(tmp_path, {name: text}))
    assert len(broken) == 1
    assert Path(name).parts[1].removesuffix(".py") in broken[0]


def test_what_the_laws_allow_breaks_none(tmp_path):
    root = planted(
        tmp_path,
        {
            "jaxpt/training/x.py": "from jaxpt.errors import JaxptError\nfrom jaxpt.data.packed import P\nimport jax",
            "jaxpt/commands/x.py": "from jaxpt import api\nfrom jaxpt.training.x import y",
            "jaxpt/cli/__init__.py": "from jaxpt import commands",
            "jaxpt/errors.py": "",
            "data_tools/clean/x.py": "from jaxpt.data.packed import P",
        },
    )
    assert [law(root) for law in LAWS] == [[]] * len(LAWS)


def test_the_picture_in_the_docs_is_that_of_the_imports():
    drawn = (ROOT / "docs" / "house.svg").read_text()
    assert drawn == draw(ROOT), "run `make house`"


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_of_users_see_the_types(package):
    assert (ROOT / package / "py.typed").is_file()
    assert '"py.typed"' in (ROOT / "setup.py").read_text()
