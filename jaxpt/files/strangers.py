"""Files that a stranger wrote: regular ones that lie where they should, and JSON that is what it looks like.

What is in a Hugging Face directory or a bundle was written by somebody else. A pipe or a device would be read for ever,
a link may lead to a file of this machine that is then copied along, and JSON may say things that no number can hold.
"""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError, short

LARGEST_JSON = 512 << 20  # bytes; tokenizers of large vocabularies have some 40 MB
DIGITS = 40  # of a whole number, at most
DEPTH = 200  # of JSON: lists and dictionaries within each other, at most


def regular_file(folder: Path, name: str) -> Path | None:
    """Returns the path of a file of a folder, None where nothing has that name.

    Links are followed within the folder; a snapshot of the Hugging Face cache (`snapshots/REVISION`) may also link into
    the `blobs` beside it.

    Raises:
        JaxptError: it is a directory, pipe, socket or device, a link that leads elsewhere or nowhere, or unreadable.
    """
    file = folder / name
    if not os.path.lexists(file):
        return None
    check_file(folder, file)
    return file


def check_file(folder: Path, file: Path) -> None:
    """Raises as `regular_file` unless `file`, somewhere below `folder`, is one to be read."""
    try:
        real = file.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        why = (
            f"a link to {os.readlink(file)}, which is not there" if file.is_symlink() else f"it cannot be read: {error}"
        )
        raise JaxptError(f"{file} is not read: {why}") from error
    if not any(real.is_relative_to(root) for root in _roots(folder.resolve())):
        raise JaxptError(
            f"{file} is not read: it is a link out of its directory, to {real}; copy that file here if it belongs"
        )
    if not stat.S_ISREG(mode):
        raise JaxptError(f"{file} is not read: it is {_kind(mode)}, not a regular file")


def _roots(folder: Path) -> Iterator[Path]:
    yield folder
    if folder.parent.name == "snapshots":
        yield folder.parent.parent / "blobs"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def check_tree(folder: Path) -> None:
    """Raises as `regular_file` where anything below `folder` is neither a directory nor a file to be read."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    check_file(folder, Path(entry.path))


def read_text(file: Path, largest: int = LARGEST_JSON) -> str:
    """Returns the text of a file that `regular_file` has returned.

    Raises:
        JaxptError: it is longer than `largest` bytes, no UTF-8, or cannot be read.
    """
    try:
        size = file.stat().st_size
        if size > largest:
            raise JaxptError(f"{file} has {size:,} bytes, at most {largest:,} are read")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise JaxptError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start:,})") from error
    except OSError as error:
        raise JaxptError(f"{file} cannot be read ({error.strerror}); make it readable and try again") from error


def parse_json(text: str | bytes, where: str, finite: bool = True) -> Any:
    """Returns the value of a JSON text in which no key comes twice and every number is finite.

    Args:
        text: of a stranger.
        where: names it in errors.
        finite: refuse NaN and infinities, which JSON has not, though Python writes them.

    Raises:
        JaxptError: no JSON; a key twice; NaN, an infinity, a number of more than `DIGITS` digits; deeper than `DEPTH`.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(found)
        if len(out) < len(found):
            counts = Counter(name for name, _ in found)
            raise JaxptError(f"{where} has the key {short(counts.most_common(1)[0][0])} more than once")
        return out

    def constant(name: str) -> Any:
        if finite:
            raise JaxptError(f"{where} holds {name}, which is no number")
        return float(name)

    def whole(digits: str) -> int:
        if len(digits) > DIGITS:
            raise JaxptError(f"{where} holds a number of {len(digits):,} digits ({digits[:20]}…)")
        return int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise JaxptError(f"{where} holds {digits[:20]}, which is too large for a number")
        return value

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=whole, parse_float=real)
    except JaxptError:
        raise
    except RecursionError:
        raise JaxptError(f"{where} is nested without end") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise JaxptError(f"{where} is not JSON: {short(str(error), 120)[1:-1]}") from error
    if is_deep(value, DEPTH):
        raise JaxptError(f"{where} is nested more than {DEPTH} deep")
    return value


def is_deep(value: Any, most: int) -> bool:
    """Whether lists and dictionaries of a JSON value lie in each other more than `most` deep."""
    level: list[Any] = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
