"""Runs documented commands, each page in a folder of its own: `python -m tests.docs.run_documented FOLDER`.

One process with one device for all of them, as starting Python and JAX anew for each would take most of the time. Pages
and their commands come as JSON on standard input, `{page: [command, …]}`; what came of each is printed at the end:
`{page: [[command, exit code, output], …]}`.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from data_tools import __main__ as data_main
from jaxpt import cli
from tests.docs import folder

FILLED = ("runs", "data", "packed")  # folders in which pages write beside what is there
WRITTEN = re.compile(r"--(?:output|output_dir|to|workdir|store|pictures)=(\S+)|--train=.* --model=(\S+)")


def page_folder(base: Path, target: Path, commands: list[str]) -> None:
    """A folder with all that the base has, but for what the page's own commands make."""
    writing = [c for c in commands if "--from_step" not in c and " report " not in c]
    made = {path for c in writing for groups in WRITTEN.findall(c) for path in groups}
    made |= {f"{m[1]}.targets" for c in writing if (m := re.search(r"distill-cache .*--source=(\S+)", c))}
    made -= {"runs/quickstart"}  # made once
    target.mkdir()
    for entry in sorted(base.iterdir()):
        inner = [entry / name.name for name in entry.iterdir()] if entry.name in FILLED else [entry]
        for path in inner:
            name = path.relative_to(base)
            if str(name) not in made:
                (target / name).parent.mkdir(exist_ok=True)
                if str(name) == "runs/c":  # which a command goes on with
                    shutil.copytree(path, target / name)
                else:
                    (target / name).symlink_to(path)


def run(command: str) -> tuple[int, str]:
    """Runs one command in this process; returns its exit code and what it printed."""
    words = shlex.split(command, comments=True)
    path = list(sys.path)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        name, _, value = words.pop(0).partition("=")
        assert name == "PYTHONPATH", f"{name} is not set by this test"
        sys.path.insert(0, os.path.abspath(value))
    if any(w.startswith("--topology") for w in words) and importlib.util.find_spec("libtpu") is None:
        return 0, "not run: needs libtpu (jaxpt[tpu])"
    out = io.StringIO()
    if words[:2] == ["jaxpt", "serve"]:  # at a port that is free here, and until it says that it takes requests
        words += [] if "--help" in words else ["--port=0"]
        threading.Thread(target=_stop_when_ready, args=(out,), daemon=True).start()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = {"jaxpt": cli.main, "jaxpt-data": data_main.main}[words[0]](words[1:])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
    sys.path[:] = path
    return code, out.getvalue()


def _stop_when_ready(out: io.StringIO) -> None:
    """Presses Ctrl-C when a server has said that it takes requests."""
    until = time.monotonic() + 300
    while "Ctrl-C stops it" not in out.getvalue() and time.monotonic() < until:
        time.sleep(0.05)
    if "Ctrl-C stops it" in out.getvalue():
        os.kill(os.getpid(), signal.SIGINT)


def main(target: str) -> int:
    """Makes the folder, runs all pages."""
    base = Path(target) / "base"
    base.mkdir()
    os.chdir(base)
    began = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):
        folder.make(base)
    print(f"{time.monotonic() - began:.0f} s for the folder", file=sys.stderr)
    results: dict[str, list[tuple[str, int, str]]] = {}
    for number, (page, commands) in enumerate(json.load(sys.stdin).items()):
        os.chdir(target)
        place = Path(target) / f"page{number}"
        page_folder(base, place, commands)
        os.chdir(place)
        results[page] = []
        for command in commands:
            began = time.monotonic()
            results[page].append((command, *run(command)))
            print(f"{time.monotonic() - began:5.1f} s  {results[page][-1][1]}  {command}", file=sys.stderr, flush=True)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
