"""What a child suffers: a limit of file sizes or of open files, another user, reads that fail in the system."""

import builtins
import ctypes
import io
import os
import resource
import sys
from typing import Any

PREAD = {"x86_64": (17, 295), "aarch64": (67, 69)}  # numbers of pread64 and preadv


def apply(faults: dict[str, Any]) -> None:
    """Makes the faults hold for this process from now on.

    Args:
        faults: `fsize` (bytes no file may exceed), `memory` (bytes of address space besides what
            there is), `nofile` (open files), `uid` (rights are dropped), `pread` (every
            positional read of the process fails with that errno, in C++ too), `open` (`[errno, part]`: Python's
            opening of a file for reading fails where `part` is in its path).
    """
    if "fsize" in faults:
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"  # no half files to import later
        resource.setrlimit(resource.RLIMIT_FSIZE, (faults["fsize"],) * 2)
    if "memory" in faults:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + faults["memory"],) * 2)
    if "nofile" in faults:
        resource.setrlimit(resource.RLIMIT_NOFILE, (faults["nofile"],) * 2)
    if "uid" in faults and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(faults["uid"])
        os.setuid(faults["uid"])
    if "pread" in faults:
        refuse_pread(faults["pread"])
    if "open" in faults:
        refuse_open(*faults["open"])


def refuse_pread(number: int) -> None:
    """Lets the kernel answer every pread with an error, by a seccomp filter on the system call's number.

    Raises:
        OSError: the kernel or the container allows no filter.
    """

    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]

    first, second = PREAD[os.uname().machine]
    lines = [
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 1, 0, first),
        (0x15, 0, 1, second),
        (0x06, 0, 0, 0x00050000 | number),  # return the errno
        (0x06, 0, 0, 0x7FFF0000),  # allow
    ]
    array = (Instruction * len(lines))(*(Instruction(*line) for line in lines))
    program = Program(len(lines), array)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter can be set here")


def refuse_open(number: int, part: str) -> None:
    """Lets `open` fail for paths that hold `part`, for reading only."""
    real = io.open

    def fail(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        if part in str(file) and "r" in mode:
            raise OSError(number, os.strerror(number), str(file))
        return real(file, mode, *args, **more)

    builtins.open = io.open = fail  # type: ignore[assignment]
