"""The order of the rooms of data_tools: a room imports only rooms before it; jaxpt imports none of them."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = [
    "io",
    "shards",
    "classify",
    "clean",
    "dedup",
    "decontaminate",
    "perplexity",
    "longdoc",
    "reports",
    "pipelines",
    "commands",
]


def imported(path: Path) -> set[str]:
    """What a file imports, at any depth."""
    out = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            out |= {node.module} | {f"{node.module}.{a.name}" for a in node.names if node.module.count(".") == 0}
        elif isinstance(node, ast.Import):
            out |= {a.name for a in node.names}
    return out


def climbs(root: Path) -> list[str]:
    """Imports of a room that does not come before the importing one."""
    out = []
    for path in sorted(root.glob("*/*.py")):
        below = ROOMS[: ROOMS.index(path.parent.name) + 1]
        for module in imported(path):
            top, _, rest = module.partition(".")
            if top == "data_tools" and rest and rest.split(".")[0] not in below:
                out.append(f"{path.parent.name}/{path.name} imports {module}")
    return out


def test_every_room_imports_only_rooms_before_it():
    assert climbs(ROOT / "data_tools") == []


def test_a_climb_is_seen(tmp_path):
    (tmp_path / "io").mkdir()
    (tmp_path / "io/x.py").write_text("def f():\n    from data_tools.shards import rows\n")
    assert climbs(tmp_path) == ["io/x.py imports data_tools.shards"]


def test_no_module_lies_loose_and_every_room_is_listed():
    assert {p.name for p in (ROOT / "data_tools").glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {p.parent.name for p in (ROOT / "data_tools").glob("*/*.py")} == set(ROOMS)


def test_jaxpt_does_not_import_data_tools_and_data_tools_no_training():
    for path in (ROOT / "jaxpt").rglob("*.py"):
        assert not any(m.split(".")[0] == "data_tools" for m in imported(path)), path
    for path in (ROOT / "data_tools").rglob("*.py"):
        assert not any(m.startswith("jaxpt.training") for m in imported(path)), path


def test_a_room_that_imports_the_loop_would_be_seen(tmp_path):  # the proof above can fail
    (tmp_path / "x.py").write_text("from jaxpt.training import loop\nimport data_tools.io\n")
    assert {"jaxpt.training", "data_tools.io"} <= imported(tmp_path / "x.py")
