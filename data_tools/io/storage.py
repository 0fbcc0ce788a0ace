"""Folders of outputs, local or on an object store: read, write whole files at once, list."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from jaxpt.files.partial import whole_file


def digest(text: str) -> str:
    """Returns the SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_remote(path: str | Path) -> bool:
    """Whether `path` is an address such as `gs://bucket/folder`."""
    return "://" in str(path) and not str(path).startswith("file://")


def join(folder: str | Path, *names: str) -> str:
    """Returns the path of a file in a folder."""
    return "/".join([str(folder).rstrip("/"), *names])


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Gives a local file to write; it gets its name when the block ends well, and no file has that name before.

    On an object store the finished file is uploaded, which stores show whole or not at all. Where the block fails,
    nothing is left of the file.

    Raises:
        JaxptError: the disk is full, or the file cannot be written.
    """
    path = str(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="jaxpt-data-") as folder:
            file = Path(folder) / path.rsplit("/", 1)[1]
            yield file
            fs, inner = fsspec.core.url_to_fs(path)
            if not {"s3", "gs", "abfs"} & set(fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
                fs.makedirs(inner.rsplit("/", 1)[0], exist_ok=True)  # object stores have no folders
            fs.put_file(str(file), inner)
        return
    target = Path(path)
    with whole_file(target, target.with_name(target.name + ".tmp")) as temporary:
        yield temporary


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with new_file(path) as file:
        text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True)
        file.write_bytes(text.encode("utf-8", "backslashreplace"))  # an unpaired surrogate stays escaped


def read_json(path: str | Path) -> Any:
    """Returns the content of a JSON file, None where there is none or it is broken."""
    fs, inner = fsspec.core.url_to_fs(str(path))
    try:
        return json.loads(fs.cat_file(inner))
    except (FileNotFoundError, ValueError):
        return None


def list_names(folder: str | Path, suffix: str = "") -> list[str]:
    """Returns the names of the files right in a folder that end so, sorted; none where there is no folder."""
    fs, inner = fsspec.core.url_to_fs(str(folder))
    if not fs.isdir(inner):
        return []
    names = (f.rstrip("/").rsplit("/", 1)[-1] for f in fs.ls(inner, detail=False) if not fs.isdir(f))
    return sorted(name for name in names if name.endswith(suffix))


def list_all(folder: str | Path) -> list[str]:
    """Returns the names of all files and folders right in a folder, sorted; none where there is no folder."""
    fs, inner = fsspec.core.url_to_fs(str(folder))
    return sorted(f.rstrip("/").rsplit("/", 1)[-1] for f in fs.ls(inner, detail=False)) if fs.isdir(inner) else []


def remove(path: str | Path) -> None:
    """Removes a file or a folder with all that is in it."""
    fs, inner = fsspec.core.url_to_fs(str(path))
    if is_remote(path):
        if fs.exists(inner):
            fs.rm(inner, recursive=True)
    elif Path(path).is_dir():
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)
