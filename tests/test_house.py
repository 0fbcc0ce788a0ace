"""The laws of the house that a machine can check: rooms import downwards, files stay small, names stay public."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = [
    "files",
    "config",
    "cli",
    "sharding",
    "kernels",
    "models",
    "tokenizers",
    "bundles",
    "reshape",
    "interop",
    "data",
    "optim",
    "objectives",
    "checkpoints",
    "generation",
    "evaluation",
    "training",
    "planning",
    "reporting",
]
GROUND = {"errors"}


def imports(path: Path) -> set[str]:
    """Modules of jaxpt that a file imports at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names} if node.module == "jaxpt" else set()
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return {m for m in found if m.split(".")[0] == "jaxpt"}


def test_every_room_imports_only_rooms_nearer_the_ground():
    wrong = []
    for path in (ROOT / "jaxpt").glob("*/*.py"):
        room = path.parent.name
        if room not in ROOMS:
            continue
        for module in imports(path):
            target = module.split(".")[1] if "." in module else ""
            below = ROOMS[: ROOMS.index(room) + 1]
            if target and target not in below and target not in GROUND:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_config_imports_no_room_that_it_configures_above_the_models():
    allowed = {"files", "sharding", "kernels", "models", "errors", "config", "optim", "objectives", "data"}
    path = ROOT / "jaxpt" / "training" / "config.py"
    assert {m.split(".")[1] for m in imports(path) if "." in m} <= allowed


def test_data_tools_knows_nothing_of_training():
    for path in (ROOT / "data_tools").rglob("*.py"):
        assert not any(m.startswith("jaxpt.training") for m in imports(path)), path


def test_no_file_or_function_outgrows_its_shape():
    long = []
    for top in ("jaxpt", "data_tools"):
        for path in (ROOT / top).rglob("*.py"):
            text = path.read_text()
            if text.count("\n") > 500:
                long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not long


def test_every_public_name_says_what_it_is():
    silent = []
    for top in ("jaxpt", "data_tools"):
        for path in (ROOT / top).rglob("*.py"):
            tree = ast.parse(path.read_text())
            if not ast.get_docstring(tree):
                silent.append(str(path.relative_to(ROOT)))
            for node in tree.body:
                named = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
                if named and not ast.get_docstring(node):
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not silent
