"""Files on disk: their digests, and directories that have their name only when they are whole."""

import errno
import glob
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def writes(target: Path | str) -> Iterator[None]:
    """A block that writes `target`: what the system says against it becomes a line that names it.

    Raises:
        JaxptError: the disk is full, or the target cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and not is_full(error):  # it may be another file, which the block reads
            raise
        raise storage_error(Path(target), error) from error


@contextmanager
def whole_file(target: Path, temporary: Path) -> Iterator[Path]:
    """Gives `temporary` to write, which becomes `target` when the block ends well; else nothing is left of it.

    Raises:
        JaxptError: the disk is full, or the file cannot be written.
    """
    with writes(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            with suppress(OSError):  # what failed is told by its own error
                temporary.unlink(missing_ok=True)


def storage_error(target: Path, error: Exception) -> JaxptError:
    """Returns the line about a write that failed: a full disk by name, any other reason as the system gives it."""
    text = " ".join(str(error).split())
    if is_full(error):
        return JaxptError(f"{target}: the disk is full ({_free(target)}); free space or choose another target")
    return JaxptError(f"{target}: writing failed ({text[:200]}); choose another target")


def is_full(error: Exception) -> bool:
    """Whether a write failed for want of space, also as numpy, pyarrow, Orbax and ArrayRecord report it."""
    text = str(error)
    full = getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
    short = re.search(r"\d+ requested and \d+ written", text) is not None  # numpy's array.tofile
    return full or short or any(w in text for w in ("No space left", "Disk quota exceeded", "RESOURCE_EXHAUSTED"))


# What a person can put right, and how; every other OSError is a fault of ours.
WAYS_OUT = {
    errno.ENOSPC: "free space, or choose another place",
    errno.EDQUOT: "free space, or choose another place",
    errno.EFBIG: "choose another place, or raise the limit of a file's size",
    errno.EACCES: "make it accessible, or choose another place",
    errno.EPERM: "make it accessible, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of the path is a file, check it",
    errno.EISDIR: "it is a folder, give a file",
    errno.EEXIST: "choose another name, or remove it",
    errno.ENOTEMPTY: "choose another name, or remove it",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle, check them",
    errno.EXDEV: "keep all parts of it on one file system",
    errno.EIO: "the disk or the network fails, check it",
    errno.ESTALE: "the network's file system lost it, start again",
    errno.ETXTBSY: "another program uses it, end that first",
    errno.EBUSY: "another program uses it, end that first",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.ENOMEM: "free memory",
    errno.EADDRINUSE: "choose another port",
    errno.ECONNREFUSED: "check the address, and that the other side runs",
    errno.ECONNRESET: "check the network and start again",
    errno.ETIMEDOUT: "check the network and start again",
    errno.EHOSTUNREACH: "check the network and the address",
    errno.ENETUNREACH: "check the network and the address",
}


def user_line(error: OSError) -> str | None:
    """Returns an OSError in one line, with its path and the way out; None where no user could put it right."""
    way_out = WAYS_OUT.get(error.errno or 0, WAYS_OUT[errno.ENOSPC] if is_full(error) else None)
    if way_out is None:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or str(error)
    return " ".join(f"{' -> '.join(names)}{': ' if names else ''}{reason}; {way_out}".split())


def _free(target: Path) -> str:
    folder = next((f for f in target.absolute().parents if f.is_dir()), Path("/"))
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB free"


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
