"""`make house`: imports, figures and the picture are those of the code that is read."""

from pathlib import Path

import pytest

from benchmarks.house.__main__ import main
from benchmarks.house.figures import annotations, function_lengths, reading_order, rooms
from benchmarks.house.imports import direct, floors, imports, room_imports
from benchmarks.house.picture import draw, rows_of


def checkout(folder: Path, **files: str) -> Path:
    """A repository of the given files, `__` in their names meaning a folder."""
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_imports_are_seen_at_any_depth(tmp_path):
    root = checkout(
        tmp_path, jaxpt__a__x="def f():\n    from jaxpt.b.y import g\n    import jaxpt.c.z\n    import os\n"
    )
    assert imports(root / "jaxpt/a/x.py") == {"jaxpt.b.y", "jaxpt.b.y.g", "jaxpt.c.z"}


def test_a_room_stands_above_all_that_it_imports_and_a_circle_is_named(tmp_path):
    root = checkout(
        tmp_path,
        jaxpt__roof__x="from jaxpt.middle import y\nfrom jaxpt.ground.z import Z\n",
        jaxpt__middle__y="from jaxpt.ground.z import Z\n",
        jaxpt__ground__z="class Z: ...\n",
    )
    graph = room_imports(root)
    assert floors(graph) == {"jaxpt/ground": 0, "jaxpt/middle": 1, "jaxpt/roof": 2}
    assert direct(graph)["jaxpt/roof"] == {"jaxpt/middle"}  # the import of ground is implied
    assert rows_of(graph)[0] == ["jaxpt/ground"]
    (root / "jaxpt/ground/z.py").write_text("from jaxpt.roof import x\n")
    with pytest.raises(ValueError, match=r"in a circle: jaxpt/.* -> jaxpt/.* -> jaxpt/"):
        floors(room_imports(root))


def test_annotations_that_are_or_hold_any_are_counted_also_behind_an_alias(tmp_path):
    root = checkout(
        tmp_path,
        jaxpt__a__x=(
            "from typing import Any\n\nTree = dict[str, Any]\n\n\n"
            "def f(self, a: Any, b: 'list[Any]', c: int, d, *, e: Tree = 1) -> None: ...\n"
        ),
        jaxpt__b__y="from jaxpt.a.x import Tree\n\n\nclass C:\n    field: Tree\n    other: int\n",
    )
    every = annotations(root)
    assert [a.name for a in every if a.holds_any] == ["f(a)", "f(b)"]
    assert [a.name for a in every if a.hides_any] == ["f(e)", "C.field"]
    assert [a.name for a in every if not a.text] == ["f(d)"]
    assert len(every) == 8


def test_functions_rooms_and_the_reading_order_are_measured_in_lines(tmp_path):
    root = checkout(tmp_path, jaxpt__a__x="def short(): ...\n\n\ndef long():\n    '''Says.'''\n    return 1\n")
    (root / "README.md").write_text("# x\n\n## Read this one file\n\n1. `jaxpt/a/x.py` – all\n\n## More\n\n1. `no`\n")
    assert [(f.name, f.lines) for f in function_lengths(root)] == [("short", 1), ("long", 3)]
    assert rooms(root) == {"jaxpt/a": (1, 6)}
    assert reading_order(root) == [("jaxpt/a/x.py", 6)]


def test_offenders_are_listed_below_a_path(tmp_path, capsys):
    root = checkout(tmp_path, jaxpt__a__x="from typing import Any\n\n\ndef f(a: Any, b) -> Any: ...\n")
    main([f"--checkout={root}", "--any=jaxpt/a", "--missing=jaxpt/a"])
    assert capsys.readouterr().out.splitlines() == [
        "jaxpt/a/x.py:4: argument f(a): Any",
        "jaxpt/a/x.py:4: return f: Any",
        "jaxpt/a/x.py:4: argument f(b)",
    ]


def test_the_picture_names_every_room_and_is_the_same_every_time(tmp_path):
    root = checkout(
        tmp_path, jaxpt__a__x="from jaxpt.b import y\n", jaxpt__b__y="", data_tools__c__z="import jaxpt.a.x"
    )
    picture = draw(root)
    assert all(f">{name}</text>" in picture for name in ("a", "b", "data_tools"))
    assert picture == draw(root)
    assert picture.count('class="line"') == 2
