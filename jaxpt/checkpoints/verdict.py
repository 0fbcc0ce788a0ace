"""What an error on reading a checkpoint means: proven damage, or something that stops; the same on all hosts."""

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jaxpt.checkpoints.run_item import DamagedError
from jaxpt.errors import JaxptError

WHOLE, DAMAGED, UNKNOWN = 0, 1, 2  # the graver, the larger

# How TensorStore reports bytes that it could read and could not decode, and files that are not there.
_DECODING = re.compile(r"(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND): |[A-Z_]+: .*(zstd|decompress|error decoding)", re.I)
_OF_THE_SYSTEM = re.compile(  # error 2 is "no such file"
    r"^RESOURCE_EXHAUSTED|os_error_code='(?!2')|out of memory|not enough memory|allocation error", re.I
)
Hook = Callable[["sys.UnraisableHookArgs"], object]  # what `sys.unraisablehook` is
_BLOCK = 1 << 24  # bytes
_TEXT = 480  # bytes of a reason that travel between hosts


@dataclass(frozen=True)
class ReadVerdict:
    """What reading came to, and why in a line."""

    kind: int
    reason: str = ""


def judge(error: BaseException | None) -> ReadVerdict:
    """Says what an error proves.

    Damage is a digest that does not match, text that is not JSON, a file that is missing, and bytes that TensorStore
    could read and not decode. Everything else (no rights, no memory, a stale handle, an unforeseen error)
    proves nothing about the file.
    """
    if error is None:
        return ReadVerdict(WHOLE)
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    root = chain[-1]
    text = " ".join(str(root).split())
    decoding = isinstance(root, DamagedError | FileNotFoundError | json.JSONDecodeError | UnicodeDecodeError)
    decoding |= isinstance(root, ValueError) and bool(_DECODING.match(text)) and not _OF_THE_SYSTEM.search(text)
    if any(_of_the_system(e) or _of_the_system(e.__context__) for e in chain):
        decoding = False
    if isinstance(root, JaxptError):
        return ReadVerdict(DAMAGED if decoding else UNKNOWN, str(root))
    reason = text.split(" [tensorstore_spec")[0].split(" [source locations")[0]
    if len(reason) > 360:  # the end says what happened, and to which file
        reason = f"{reason[:40]} … {reason[-300:]}"
    return ReadVerdict(DAMAGED if decoding else UNKNOWN, f"{type(root).__name__}: {reason}")


def agreed(verdict: ReadVerdict) -> ReadVerdict:
    """Returns the gravest verdict of all hosts, on each of them; all must call it."""
    if jax.process_count() == 1:
        return verdict
    from jax.experimental import multihost_utils

    mine = np.zeros(1 + _TEXT, np.uint8)
    text = f"process {jax.process_index()}: {verdict.reason}".encode()[:_TEXT]
    mine[0], mine[1 : 1 + len(text)] = verdict.kind, np.frombuffer(text, np.uint8)
    of_all = np.asarray(multihost_utils.process_allgather(mine)).reshape(jax.process_count(), -1)
    gravest = of_all[int(np.argmax(of_all[:, 0]))]
    return ReadVerdict(int(gravest[0]), bytes(gravest[1:]).rstrip(b"\0").decode(errors="replace"))


def read_every_byte(folder: Path) -> ReadVerdict:
    """Reads all files below `folder` (each host a part of them): damage is proven only where all can be read."""

    def failed(error: OSError) -> None:
        raise error

    try:
        files = sorted(Path(at) / name for at, _, names in os.walk(folder, onerror=failed) for name in names)
        for path in files[jax.process_index() :: jax.process_count()]:
            try:
                with open(path, "rb", buffering=0) as f:
                    while f.read(_BLOCK):
                        pass
            except OSError as error:
                return ReadVerdict(UNKNOWN, f"{path}: {error.strerror}")
    except OSError as error:
        return ReadVerdict(UNKNOWN, f"{error.filename}: {error.strerror}")
    return ReadVerdict(WHOLE)


def _of_the_system(error: BaseException | None) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and not isinstance(error, FileNotFoundError))


def _without_closed_loops(before: Hook) -> Hook:
    """Orbax closes its event loop at the first failed read; what the other reads say afterwards means nothing."""

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        text = str(unraisable.exc_value)
        if "Event loop is closed" not in text and "Encountered error while reading array index" not in text:
            before(unraisable)

    return hook


sys.unraisablehook = _without_closed_loops(sys.unraisablehook)
