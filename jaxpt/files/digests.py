"""Digests of a directory's small files, in `digests.json` beside them, and checked whenever one of them is read.

A `model.json` that states a format of 2 or more says that `digests.json` must be there: without it nothing is read.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from jaxpt.errors import JaxptError
from jaxpt.files.partial import sha256, storage_error, whole_file

NAME = "digests.json"
FORMAT = 1  # of digests.json
MODEL_FORMAT = 2  # of model.json; one without a number was written before there were digests
WAY_OUT = "restore it from a copy, or write it again"
T = TypeVar("T")
Allowed = tuple[str | None, ...]  # SHA-256 (hex) that a file may have; None: it may be absent

_reported = False


class Digests:
    """What `digests.json` of a folder says: `files` by name relative to the folder."""

    def __init__(self, folder: Path, files: Mapping[str, Allowed], way_out: str):
        """Use `open_digests`."""
        self.folder, self.files, self._way_out = folder, files, way_out

    def read(self, name: str) -> bytes:
        """Returns the content of a file.

        Raises:
            JaxptError: it is not what was written, is missing or not listed, or cannot be read.
        """
        if name not in self.files:
            raise JaxptError(f"{self.folder / NAME} does not list {name}; {self._way_out}")
        content = read_bytes(self.folder / name)
        if content is None:
            raise JaxptError(f"{self.folder / name} is missing, {NAME} lists it; {self._way_out}")
        if hashlib.sha256(content).hexdigest() not in self.files[name]:
            raise JaxptError(f"{self.folder / name} is damaged: it is not what {NAME} says; {self._way_out}")
        return content

    def check(self, below: str) -> None:
        """Checks every file in the subfolder `below`; raises as `read`, also where it holds one that is not listed."""
        for name in self.files:
            if name.startswith(f"{below}/"):
                self.read(name)
        for file in sorted(f for f in (self.folder / below).rglob("*") if not f.is_dir()):
            name = file.relative_to(self.folder).as_posix()
            if name not in self.files and not file.name.startswith(".") and file.suffix != ".tmp":
                raise JaxptError(f"{file} was not written with the rest ({NAME} does not list it); remove it")


def open_digests(folder: Path, way_out: str = WAY_OUT) -> Digests | None:
    """Returns the digests of a folder; None where it was written before there were any, which is printed once.

    Args:
        folder: a bundle or a run directory.
        way_out: what errors say is to be done about a damaged file.

    Raises:
        JaxptError: `digests.json` is damaged, or missing where there must be one.
    """
    content = read_bytes(folder / NAME)
    if content is not None:
        return Digests(folder, _parse(folder / NAME, content, way_out), way_out)
    model = read_bytes(folder / "model.json")
    if model is not None and b'"format"' in model:
        raise JaxptError(f"{folder / NAME} is missing, model.json says that it must be there; {way_out}")
    report_without_digests(folder)
    return None


def with_digests(folder: Path, read: Callable[[Digests | None], T], way_out: str = WAY_OUT) -> T:
    """Returns what `read` makes of the digests of a folder (None as from `open_digests`).

    Where it fails because a writer replaced a file meanwhile, it is called again with the digests that hold now.
    """
    while True:
        before = read_bytes(folder / NAME)
        try:
            return read(open_digests(folder, way_out))
        except JaxptError:
            if read_bytes(folder / NAME) == before:
                raise


def read_file(folder: Path, name: str, way_out: str = WAY_OUT) -> bytes:
    """Returns the content of a file of a folder, checked where the folder has digests.

    Raises:
        JaxptError: it is damaged, missing or cannot be read.
    """

    def read(digests: Digests | None) -> bytes:
        content = read_bytes(folder / name) if digests is None else digests.read(name)
        if content is None:
            raise JaxptError(f"{folder / name} is missing; {way_out}")
        return content

    return with_digests(folder, read, way_out)


def read_json(folder: Path, name: str, kind: type, way_out: str = WAY_OUT) -> Any:
    """Returns the values of a JSON file as `read_file` reads it; `kind` is what it holds, `dict` or `list`.

    Raises:
        JaxptError: as `read_file`; no JSON, or of another kind.
    """
    try:
        values = json.loads(read_file(folder, name, way_out))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise JaxptError(f"{folder / name} is broken ({error}); {way_out}") from error
    if not isinstance(values, kind):
        raise JaxptError(f"{folder / name} is broken (it holds no {kind.__name__}); {way_out}")
    return values


def write_digests(folder: Path, names: Iterable[str]) -> None:
    """Writes `digests.json` for files of a folder that nobody reads yet."""
    _write(folder, {name: (sha256(folder / name),) for name in names})


def write_files(folder: Path, contents: Mapping[str, bytes], kept: Iterable[str] = ()) -> None:
    """Writes or replaces files of a folder together with their digests, so that a kill leaves no mismatch.

    While files are replaced, `digests.json` allows their old and their new content.

    Args:
        folder: made where absent.
        contents: by name relative to the folder.
        kept: files that are there and get a digest as they are, unless they have one.

    Raises:
        JaxptError: the disk is full, or the folder cannot be written.
    """
    old = read_bytes(folder / NAME)
    files = {} if old is None else dict(_parse(folder / NAME, old, WAY_OUT))
    files |= {name: (sha256(folder / name),) for name in kept if name not in files}
    files |= {name: (now,) for name, a in files.items() if len(a) > 1 and (now := _digest(folder / name)) in a and now}
    final = {**files, **{name: (hashlib.sha256(content).hexdigest(),) for name, content in contents.items()}}
    before = {name: files.get(name) or (_digest(folder / name),) for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, {**files, **{n: tuple(dict.fromkeys((*before[n], *final[n]))) for n in contents}})
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _replace(folder / name, content)
        _write(folder, final)
    except OSError as error:
        raise storage_error(folder, error) from error


def read_bytes(file: Path) -> bytes | None:
    """Returns a file's content, None where there is no such file.

    Raises:
        JaxptError: it is there and cannot be read.
    """
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JaxptError(f"{file} cannot be read ({error.strerror}); make it readable and try again") from error


def canonical_digest(values: Any) -> str:
    """Returns the SHA-256 (hex) of plain values as JSON with sorted keys, which its layout does not enter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def report_without_digests(path: Path | str) -> None:
    """Prints one line, once in a process, about something that was written before small files had digests."""
    global _reported
    if not _reported:
        print(
            f"{path} was written by an earlier jaxpt: its small files carry no digests, damage to them is not noticed",
            file=sys.stderr,
        )
    _reported = True


def _digest(file: Path) -> str | None:
    content = read_bytes(file)
    return None if content is None else hashlib.sha256(content).hexdigest()


def _parse(file: Path, content: bytes, way_out: str) -> dict[str, Allowed]:
    try:
        values = json.loads(content)
        files = {name: tuple(allowed) for name, allowed in values["files"].items()}
        known = values.keys() == {"format", "files"} and values["format"] == FORMAT
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise JaxptError(f"{file} is broken ({type(error).__name__}); {way_out}") from error
    if not known:
        raise JaxptError(f"{file} is of a format that this jaxpt does not read, or damaged; {way_out}")
    for name, allowed in files.items():
        if not all(a is None or (isinstance(a, str) and re.fullmatch("[0-9a-f]{64}", a)) for a in allowed):
            raise JaxptError(f"{file} is broken (what it says of {name!r} is no SHA-256); {way_out}")
    return files


def _write(folder: Path, files: Mapping[str, Allowed]) -> None:
    text = json.dumps({"format": FORMAT, "files": {name: list(files[name]) for name in sorted(files)}}, indent=1)
    _replace(folder / NAME, text.encode() + b"\n")


def _replace(file: Path, content: bytes) -> None:
    with whole_file(file, file.with_name(file.name + ".tmp")) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
