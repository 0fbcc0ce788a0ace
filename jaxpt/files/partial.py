"""Files on disk: their digests, and directories that have their name only when they are whole."""

import errno
import glob
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxpt.errors import JaxptError


def sha256(file: Path) -> str:
    """Returns the SHA-256 of a file, hex, read in blocks."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@contextmanager
def partial_directory(target: Path) -> Iterator[Path]:
    """A new empty sibling of `target` to write into, which the caller renames; what is left of it is removed.

    What a killed process of this machine left of the same target goes first.

    Raises:
        JaxptError: `target` exists, or its directory cannot be written.
    """
    if os.path.lexists(target):
        raise JaxptError(f"{target} exists; remove it or choose another target")
    host = re.sub(r"\W", "_", socket.gethostname())
    partial = target.with_name(f".{target.name}.partial-{host}-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{glob.escape(target.name)}.partial-{host}-*"):
            if not _alive(left.name.rpartition("-")[2]):
                shutil.rmtree(left)
        partial.mkdir()
    except OSError as e:
        raise JaxptError(f"{target.parent} cannot be written ({e.strerror}); choose another target") from e
    try:
        yield partial
    except OSError as e:
        raise storage_error(target, e) from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def storage_error(target: Path, error: Exception) -> JaxptError:
    """Returns the line about a write that failed: a full disk by name, any other reason as the system gives it."""
    text = " ".join(str(error).split())
    if getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        free = shutil.disk_usage(target.parent).free / 2**20
        return JaxptError(f"{target}: the disk is full ({free:,.0f} MiB free); free space or choose another target")
    return JaxptError(f"{target}: writing failed ({text[:200]}); choose another target")


def _alive(pid: str) -> bool:
    if not pid.isdigit() or int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
