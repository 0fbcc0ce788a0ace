"""Attacks everything that jaxpt writes and counts what is noticed, harmless or silent.

`python -m benchmarks.attack` makes small victims with the code under attack, damages or disturbs copies of them and
compares with the undisturbed result: **noticed** (refused in a line, or a reported fall-back with the same result),
**harmless** (the same result, bit for bit), **silent** (another result and nobody said so), **wrong refusal** (what is
promised to work was refused), **traceback**, **hang**. `--code=CHECKOUT` attacks another checkout.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from benchmarks.attack import KINDS
from benchmarks.attack.children import Children
from benchmarks.attack.judge import BAD, VERDICTS, Trial, counts
from benchmarks.attack.room import Room
from benchmarks.attack.victims import make
from jaxpt.cli.terminal import table


def run(kinds: list[str], trials: int, seed: int, code: Path, folder: Path, jobs: int = 2) -> list[Trial]:
    """Makes the victims in `folder` and runs the named kinds of attack; returns every trial."""
    children = Children(code, folder / "children", jobs)
    try:
        victims = make(folder / "victims", children, seed)
        out: list[Trial] = []
        for kind in kinds:
            begun = time.monotonic()
            room = Room(folder / kind, victims, children, random.Random(f"{seed}/{kind}"), trials)
            new = KINDS[kind](room)
            out += new
            bad = sum(t.verdict in BAD for t in new)
            print(f"{kind}: {len(new)} trials, {bad} bad, {time.monotonic() - begun:.0f} s", flush=True)
        return out
    finally:
        children.close()


def main() -> None:
    """Parses, attacks, prints the table and stores it; the exit code is 1 where a verdict is bad."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds, of {', '.join(KINDS)}")
    parser.add_argument("--trials", type=int, default=16, help="scales how often each attack is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="children at once, at least 2")
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[2], help="the checkout under attack")
    parser.add_argument("--out", type=Path, help="file for the table and every trial, as JSON")
    args = parser.parse_args()
    kinds = args.only.split(",")
    if odd := [k for k in kinds if k not in KINDS]:
        parser.error(f"there is no kind {odd[0]!r}; there are {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        trials = run(kinds, args.trials, args.seed, args.code.resolve(), Path(folder), args.jobs)
    bad = [t for t in trials if t.verdict in BAD]
    for trial in bad:
        print(f"{trial.verdict}: {trial.kind}: {trial.what}\n    {trial.reason}")
    head, rows = ["attack", "tried", *VERDICTS], counts(trials)
    command = f"python -m benchmarks.attack --only={args.only} --trials={args.trials} --seed={args.seed}"
    print(command)
    print(table(head, rows))
    if args.out:
        facts = {"command": command, "head": head, "rows": rows, "trials": [vars(t) for t in trials]}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
