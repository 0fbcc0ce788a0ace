"""Real text that is on every machine with Python: the standard library's code, its prose, and arithmetic stories."""

import ast
import hashlib
import json
import pydoc_data.topics
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from jaxpt.data.documents import held_out
from jaxpt.files.partial import whole_file

LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo", "ensurepip")
SHARE = 0.04  # of modules, held out together with their docstrings


def write(folder: Path, problems: int = 24_000) -> dict[str, int]:
    """Writes `code`, `prose` and `arithmetic` as `NAME.train.jsonl` and `NAME.held_out.jsonl`.

    A module and its docstrings fall on the same side, by a hash of the module's path, so that nothing leaks.

    Args:
        folder: is made.
        problems: how many arithmetic stories.

    Returns:
        UTF-8 bytes per file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"code": list(_code()), "prose": [*_docstrings(), *_topics()], "arithmetic": list(_stories(problems))}
    sizes = {}
    for kind, documents in kinds.items():
        for part in ("train", "held_out"):
            name = f"{kind}.{part}.jsonl"
            chosen = [(g, t) for g, t in documents if held_out(g, SHARE) == (part == "held_out")]
            chosen.sort(key=lambda d: hashlib.sha256(d[1].encode()).digest())
            partial = folder / f".{name}.partial"
            with whole_file(folder / name, partial), partial.open("w", encoding="utf-8") as f:
                for group, text in chosen:
                    f.write(json.dumps({"text": text, "group": group}, ensure_ascii=False) + "\n")
            sizes[name] = sum(len(t.encode()) for _, t in chosen)
    return sizes


def _modules() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if any(part in LEFT_OUT for part in place.parts[:-1]) or place.name == "topics.py":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if text.strip():
            yield place.as_posix(), text


def _code() -> Iterator[tuple[str, str]]:
    yield from _modules()


def _docstrings() -> Iterator[tuple[str, str]]:
    """All docstrings of a module as one document, those under 80 characters left out."""
    for name, text in _modules():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        docstrings = [d for d in docstrings if len(d) >= 80]
        if docstrings:
            yield name, "\n\n".join(docstrings) + "\n"


def _topics() -> Iterator[tuple[str, str]]:
    for name, text in sorted(pydoc_data.topics.topics.items()):
        yield f"topic:{name}", text.strip() + "\n"


NAMES = (
    "Ada",
    "Bela",
    "Chen",
    "Dina",
    "Emre",
    "Fay",
    "Goro",
    "Hana",
    "Ivo",
    "Jun",
    "Kofi",
    "Lena",
    "Mira",
    "Nia",
    "Omar",
)
THINGS = ("apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "tickets", "stones", "cards", "eggs")
PLACES = ("at the market", "in the garden", "on the train", "at school", "by the river", "in a shop", "at home")


def _stories(count: int) -> Iterator[tuple[str, str]]:
    """Word problems of two to four steps, worked out."""
    for i in range(count):
        rng = random.Random(i)
        name, other = rng.sample(NAMES, 2)
        thing, place = rng.choice(THINGS), rng.choice(PLACES)
        have = rng.randint(2, 60)
        lines = [f"{name} has {have} {thing} {place}."]
        work = []
        for _ in range(rng.randint(2, 4)):
            n = rng.randint(2, 30)
            kind = rng.choice(("finds", "gives", "times", "share"))
            if kind == "finds":
                lines.append(rng.choice((f"{name} finds {n} more.", f"Then {other} brings {n} more.")))
                work.append(f"{have} + {n} = {have + n}")
                have += n
            elif kind == "gives" and have > n:
                lines.append(rng.choice((f"{name} gives {n} of them to {other}.", f"{n} of them are lost.")))
                work.append(f"{have} - {n} = {have - n}")
                have -= n
            elif kind == "times" and have < 200:
                k = rng.randint(2, 4)
                lines.append(f"Overnight their number grows {k} times.")
                work.append(f"{have} * {k} = {have * k}")
                have *= k
            else:
                k = next((d for d in (5, 4, 3, 2) if have % d == 0), 0)
                if not k:
                    continue
                lines.append(f"{name} shares them equally among {k} friends and keeps one share.")
                work.append(f"{have} / {k} = {have // k}")
                have //= k
        question = f"How many {thing} does {name} have now?"
        yield f"story:{i}", f"Question: {' '.join(lines)} {question}\nWork: {'; '.join(work)}\nAnswer: {have}\n"
