"""Where a command may write: never onto what it reads, never where its own output would be read the next time."""

import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from data_tools.io.readers import SUFFIXES
from jaxpt.data.remote import file_system
from jaxpt.data.text_files import is_local, list_files
from jaxpt.data.tfds_split import PREFIX
from jaxpt.errors import JaxptError

WAY_OUT = "choose a folder of its own"


def check_outputs(
    inputs: Mapping[str, str | None], folders: Mapping[str, str | None], files: Mapping[str, str | None] | None = None
) -> None:
    """Refuses outputs that would overwrite an input, or that the same inputs would match afterwards.

    Links and `..` are resolved. Two names of one file (hard links) are not recognised.

    Args:
        inputs: by flag, comma-separated files, folders or globs; None: not given.
        folders: by flag, a folder that is written into.
        files: by flag, a single file that is written.

    Raises:
        JaxptError: an output folder is that of an input file, holds one, or lies in a folder that is an input or in
            which a glob looks; an output file is an input file; an input does not exist.
    """
    for flag, patterns in inputs.items():
        for pattern in map(str.strip, patterns.split(",") if patterns else ()):
            if not pattern:
                raise JaxptError(f"{flag}={patterns} has an empty part; take out a comma")
            if pattern.startswith(PREFIX):
                continue
            read = list(_files(pattern))
            for name, folder in folders.items():
                if folder:
                    _check_folder(f"{name}={folder}", _resolved(folder), f"{flag}={pattern}", pattern, read)
            places = {_resolved(path) for path in read}
            for name, file in (files or {}).items():
                if file and _resolved(file) in places:
                    raise JaxptError(f"{name}={file} is one of the files of {flag}={pattern}; choose another file")


def _files(pattern: str) -> list[str]:
    fs, path = file_system(pattern)
    if fs.isdir(path):
        return [f if is_local(fs) else fs.unstrip_protocol(f) for f in fs.find(path)]
    return list_files(pattern, SUFFIXES)


def _check_folder(output: str, target: str, given: str, pattern: str, read: list[str]) -> None:
    for folder, path in _folders(read).items():
        if _is_same(folder, target):
            raise JaxptError(f"{output} is the folder of {path}, which is read; {WAY_OUT}")
        if _is_in(folder, target):
            raise JaxptError(f"{output} holds {path}, which is read; {WAY_OUT}")
    if target in {_resolved(path) for path in read}:
        raise JaxptError(f"{output} is a file, which is read; {WAY_OUT}")
    base, parts = _searched(pattern)
    if base is None or not (_is_in(target, _resolved(base)) or _is_same(target, _resolved(base))):
        return
    here = parts and _is_same(_resolved(base), os.getcwd())
    if not here or _matches_in(parts, os.path.relpath(target, _resolved(base)).split("/")):
        raise JaxptError(f"{output} lies in {base}, where {given} looks for files; {WAY_OUT} outside of it")


def _folders(read: list[str]) -> dict[str, str]:
    """Returns the folders in which files lie, with and without links resolved, each with one of its files."""
    out: dict[str, str] = {}
    for path in read:
        above, slash, _ = path.rpartition("/")
        out.setdefault(str(PurePosixPath(_resolved(path)).parent), path)
        out.setdefault(_resolved(above or (slash or ".")), path)
    return out


def _resolved(path: str) -> str:
    """Returns an absolute path without links, or an address without `..` and doubled slashes."""
    fs, inner = file_system(str(path).rsplit("::", 1)[-1])
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    if "file" in protocols:
        return os.path.realpath(inner)
    return f"{min(protocols)}:{os.path.normpath('/' + inner.lstrip('/'))}"


def _is_same(one: str, other: str) -> bool:
    """Whether two resolved paths are one folder, also under two names (letter case, mounts)."""
    try:
        return one == other or (os.path.isabs(one) and os.path.isabs(other) and os.path.samefile(one, other))
    except OSError:
        return False


def _is_in(path: str, folder: str) -> bool:
    return any(_is_same(above, folder) for above in _above(path))


def _above(path: str) -> Iterator[str]:
    return map(str, PurePosixPath(path).parents)


def _searched(pattern: str) -> tuple[str | None, list[str]]:
    """Returns the folder that an input is looked for in (None: it is a file), and the parts of a glob below it."""
    fs, path = file_system(pattern)
    if fs.isdir(path):
        return pattern, []
    if fs.exists(path):
        return None, []
    address, protocol, inner = pattern.rpartition("://")
    parts = inner.split("/")
    first = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts) - 1)
    base = "/".join(parts[:first])
    if inner.startswith("/") and not base:
        base = "/"
    return f"{address}{protocol}{base}" or ".", parts[first:]


def _matches_in(parts: list[str], folders: list[str]) -> bool:
    """Whether a glob of these parts can match a file below the folder that lies so below the glob's base."""
    if any("**" in part for part in parts):
        return True
    return len(parts) > len(folders) and all(fnmatchcase(f, part) for f, part in zip(folders, parts))
