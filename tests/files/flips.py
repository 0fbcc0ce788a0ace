"""Damage to one file at a time, and what a reader makes of it: noticed in one line, harmless, or neither."""

import shutil
from collections import Counter

from jaxpt.errors import JaxptError

FLIP = 1  # the lowest bit: "0" becomes "1", a letter its neighbour


def damages(content, every):
    """Yields (name, content) of a damaged file; None: it is gone, "folder": a folder stands in its place."""
    for at in range(0, len(content), every):
        flipped = bytearray(content)
        flipped[at] ^= FLIP if at // every % 4 else 1 << at % 8
        yield f"flip at {at}", bytes(flipped)
    yield "empty", b""
    yield "half", content[: len(content) // 2]
    yield "longer by a byte", content + b"0"
    yield "gone", None
    yield "folder", "folder"


def outcomes(file, read, every, same=lambda a, b: a == b):
    """Damages `file` in every way, restores it, and counts what `read()` does.

    Returns:
        Counter of "noticed" (a JaxptError of one line), "harmless" (the same as undamaged), and of a sentence for each
        case that is neither.
    """
    good, whole = file.read_bytes(), read()
    counts = Counter()
    try:
        for name, content in damages(good, every):
            file.unlink()
            if content == "folder":
                file.mkdir()
            elif content is not None:
                file.write_bytes(content)
            counts[_outcome(f"{file.name}, {name}", read, whole, same)] += 1
            if content == "folder":
                shutil.rmtree(file)
            file.write_bytes(good)
    finally:
        if not file.exists():
            file.write_bytes(good)
    assert same(read(), whole)
    return counts


def _outcome(what, read, whole, same):
    try:
        value = read()
    except JaxptError as error:
        return "noticed" if "\n" not in str(error) else f"{what}: message in several lines"
    except Exception as error:
        return f"{what}: {type(error).__name__}: {error}"
    return "harmless" if same(value, whole) else f"{what}: silent"


def assert_never_silent(counts):
    """Asserts that all damage was noticed or harmless, and that some was noticed."""
    odd = [what for what in counts if what not in ("noticed", "harmless")]
    assert not odd, f"{len(odd)} of {counts.total()}: {odd[:5]}"
    assert counts["noticed"]
