"""Speed on one GPU, within four minutes a command, compilation counted; every row is kept when it is measured.

`first`: attention of every implementation against the reference and its time, the matmul ceiling, the train step of a
model of 1.2B parameters. `second`: the same model under torch.compile, generation beside transformers, a kill and a
bit-for-bit resume, a profile of one step, grouped products and the loss. With --tiny: the same on a CPU, in seconds.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {  # seconds of each part; what a part leaves is the next one's
    "first": {"step": 125, "torch_attention": 30, "kernels": 80},
    "second": {"torch_step": 75, "profile": 30, "generate": 45, "resume": 45, "experts": 20, "loss": 20},
}
EXTRAS = ("step_wide", "fp8", "generate_transformers")  # on request, and what a part starts


def main() -> int:
    """Runs the parts of a command one after the other, each in a process of its own; or one part, in this process."""
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__)
    known = [*(part for parts in COMMANDS.values() for part in parts), *EXTRAS]
    parser.add_argument("what", choices=[*COMMANDS, *known])
    parser.add_argument("--out", type=Path, help="file that rows are appended to, a JSON object a line")
    parser.add_argument("--seconds", type=float, default=235.0, help="from the start of the command to its end")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a dry run on a CPU")
    parser.add_argument("--only", metavar="PART:SECONDS,…", help="these parts instead, of any command, in this order")
    a = parser.parse_args()
    if a.what not in COMMANDS:
        return part(a.what, a.out, a.seconds, a.tiny)
    parts = dict(_part(given, known, parser) for given in a.only.split(",")) if a.only else COMMANDS[a.what]
    end, due, worst = time.monotonic() + a.seconds, time.monotonic(), 0
    for name, seconds in parts.items():
        due += seconds
        worst = max(worst, start(name, a.out, min(due, end) - time.monotonic(), a.tiny))
    if a.out is not None:
        print(f"rows are in {a.out}")
    return worst


def _part(given: str, known: list[str], parser: argparse.ArgumentParser) -> tuple[str, float]:
    name, _, seconds = given.partition(":")
    if name not in known or not seconds.replace(".", "").isdigit():
        parser.error(f"--only={given}: give a part and its seconds, as {known[0]}:60; parts are {', '.join(known)}")
    return name, float(seconds)


def start(name: str, out: Path | None, seconds: float, tiny: bool) -> int:
    """Runs one part in a process of its own, ended 10 s after its time; returns its exit code."""
    if seconds < 5:
        print(f"{name}: not run, no time is left", flush=True)
        return 1
    command = [sys.executable, "-u", "-m", "benchmarks.gpu", name, f"--seconds={seconds:.0f}"]
    command += [f"--out={out}"] if out else []
    command += ["--tiny"] if tiny else []
    try:
        return subprocess.run(command, timeout=seconds + 10).returncode
    except subprocess.TimeoutExpired:
        print(f"{name}: ended after {seconds + 10:.0f} s", flush=True)
        return 1


def part(name: str, out: Path | None, seconds: float, tiny: bool) -> int:
    """Measures one part in this process."""
    from benchmarks.gpu.environment import facts, prepare

    begun = time.monotonic()
    prepare(name)
    from benchmarks.gpu.rows import Rows
    from benchmarks.gpu.sizes import FULL, TINY

    rows = Rows(out, name, begun + seconds, facts(name), begun)
    module = importlib.import_module(f"benchmarks.gpu.sections.{name}")
    module.measure(TINY if tiny else FULL, rows)
    print(json.dumps({"section": name, "seconds": round(time.monotonic() - begun, 1)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
