"""Runs a program that a model wrote, then its tests, in this process: the script of `programs.run_program`.

Started as `python -I program_runner.py`, it imports nothing of jaxpt. It reads one JSON object from its standard input,
limits itself, and writes `{"token": …, "why": …}` to the file descriptor that it was given: `why` is null where every
test was passed. The limits and the refusals keep honest mistakes from doing harm. They are no sandbox.
"""

import json
import os
import sys
import types
from typing import Any

REFUSED = (  # what would start a process, reach a network, load native code, or end other processes
    *("os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec", "pty.spawn", "subprocess.Popen"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "ctypes.dlopen", "os.kill", "os.killpg"),
)


def limit(limits: dict[str, int]) -> None:
    """Lowers this process's own limits: seconds of CPU, bytes of memory and of a file, processes, open files."""
    import resource

    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            continue
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS knows some limits and refuses to set them
            continue


def refuse(event: str, arguments: Any) -> None:
    """Raises a PermissionError for what a program of an evaluation has no reason to do."""
    if event in REFUSED:
        raise PermissionError(f"{event} is refused")


def run(program: str, tests: str) -> str | None:
    """Returns what went wrong in `program`, or in `tests` after it; None where nothing did.

    The tests get a copy of the program's names, so that a name which both define is that of the tests.
    """
    module = types.ModuleType("program")
    sys.modules["program"] = module
    tested = types.ModuleType("tests")
    try:
        exec(compile(program, "program", "exec"), module.__dict__)
        tested.__dict__.update({k: v for k, v in vars(module).items() if not k.startswith("__")})
        exec(compile(tests, "tests", "exec"), tested.__dict__)
    except BaseException as error:  # SystemExit too: a program that ends early has passed nothing
        return f"{type(error).__name__}: {error}"[:200]
    return None


def main() -> None:
    """Reads what to run, runs it, and writes the verdict."""
    asked = json.load(sys.stdin)
    verdict, token = os.fdopen(asked["verdict"], "wb", buffering=0), asked["token"]
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    limit(asked["limits"])
    sys.addaudithook(refuse)
    write, leave, dumps = verdict.write, os._exit, json.dumps  # the program may replace them in their modules
    why = run(asked["program"], asked["tests"])
    write(dumps({"token": token, "why": why}).encode() + b"\n")
    leave(0)


if __name__ == "__main__":
    main()
