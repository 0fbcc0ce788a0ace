"""Runs in the interpreter of the code under attack: imports it once, then forks a child for every request.

Started by `benchmarks.attack.children` as a script with the attacked checkout in PYTHONPATH, so that `jaxpt` and
`data_tools` are its; only `benchmarks.attack` is added from where this file lies. JAX starts no thread before a child
uses it, which is what makes the forks sound.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

IMPORTED_ONCE = (
    "jaxpt.api", "jaxpt.cli", "jaxpt.commands.train", "jaxpt.commands.inspect", "jaxpt.commands.export",
    "jaxpt.commands.import_", "jaxpt.commands.reshape", "jaxpt.commands.report", "data_tools.__main__",
    "data_tools.commands.run", "data_tools.commands.pack", "data_tools.commands.tokenize", "data_tools.commands.clean",
    "data_tools.commands.dedup", "data_tools.commands.extract",
)  # fmt: skip


def child(request: dict[str, Any]) -> int:
    """Does what a request says; returns the exit code that a command would have."""
    with open(request["answer"], "w") as place:  # opened before rights are dropped
        return done(request, place)


def done(request: dict[str, Any], place: Any) -> int:
    """Suffers the faults, does the calls in order, writes the last one's answer."""
    from benchmarks.attack import actions, faults
    from jaxpt.errors import JaxptError

    try:
        faults.apply(request.get("faults") or {})
        answer: Any = None
        for name, *arguments in request["calls"]:
            answer = getattr(actions, name)(*arguments)
            if name in actions.COMMANDS and answer:
                return int(answer)
        place.write(json.dumps(answer))
        return 0
    except (JaxptError, OSError) as error:  # as `jaxpt.cli.dispatch` does
        print(f"attack: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return int(stop.code or 0) if not isinstance(stop.code, str) else 1
    except BaseException:
        traceback.print_exc()
        return 70


def fork(request: dict[str, Any]) -> int:
    """Forks a child with its own session and output files; returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 71
    try:
        os.setsid()
        for number, name in ((0, os.devnull), (1, request["out"] + ".out"), (2, request["out"] + ".err")):
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(file, number)
        code = child(request)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Reads requests from standard input, a line each; answers with the child's id, then with how it ended."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    import benchmarks

    benchmarks.__path__.insert(0, str(Path(__file__).resolve().parents[1]))
    for name in (*IMPORTED_ONCE, "benchmarks.attack.actions"):
        importlib.import_module(name)
    replies.write("ready\n")
    for line in sys.stdin:
        pid = fork(json.loads(line))
        replies.write(f"{pid}\n")
        replies.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")


if __name__ == "__main__":
    main()
