"""A run killed (SIGKILL) again and again at random moments ends bit for bit like one left alone.

`python -m benchmarks.kills` trains once without interruption and once with 20 kills, at moments drawn from a fixed seed
and kept by this process's own clock: one in five within 7 s of the process's birth, the others within 7 s of the first
step that it trained. It goes on killing until at least 3 fell inside an asynchronous save (seen by the temporary folder
left behind) and 1 inside an evaluation, then lets the run finish and compares every record and the digests of the final
parameters and moments. A third run on another mesh must agree within rounding.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.cli.terminal import progress, table
from jaxpt.evaluation.evaluation import Evaluation, EvaluationSetting, Measure
from jaxpt.models.params import Params
from jaxpt.training.metrics import read

STEPS, SAVE, EVALUATE = 3000, 20, 100


def child(workdir: Path, steps: int, mesh: dict[str, int]) -> int:
    """The run itself: a small model, saved and evaluated often; a tenth of the time goes to evaluations."""
    from benchmarks.made_sources import make_sources
    from jaxpt.commands.train import train
    from jaxpt.config.schema import build
    from jaxpt.training.config import RunConfig
    from jaxpt.training.evaluating import Evaluating

    sources = make_sources(workdir.parent / "sources")
    model = {"vocab_size": 512, "embed": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 176, "layers": 4}
    schedule = {"name": "wsd", "warmup": "100 steps", "end": 0.0}
    stage = {"duration": f"{STEPS} steps", "batch_size": 8, "sequence_length": 64, "schedule": schedule}
    config = {
        "model": {**model, "tie_embeddings": True},
        "sources": {name: {"path": str(path), "repeat": 1000} for name, path in sources.items()},
        "stages": [{**stage, "mixture": {"a": 0.5, "b": 0.3, "c": 0.2}, "microbatches": 2}],
        "optimizer": {"learning_rate": 3e-3},
        "checkpoint": {"every": f"{SAVE} steps", "keep": 3, "keep_every": f"{2 * EVALUATE} steps"},
        "metrics": {"every": 1, "tensorboard": False},
        "sharding": {"mesh": mesh},
    }

    evaluating = Evaluating("norm", FinalNorm(f"{EVALUATE} steps", stop_at=steps))
    return train(build(RunConfig, config), workdir, [evaluating])


@dataclass(frozen=True)
class FinalNorm(Evaluation):
    """`eval/norm/final`, with a tenth of the time since it was measured last."""

    stop_at: int = STEPS + 1

    def prepare(self, setting: EvaluationSetting) -> Measure:
        """Measures the length of the last norm's scale."""
        last = time.monotonic()

        def measure(step: int, params: Params) -> dict[str, float]:
            nonlocal last
            if step >= self.stop_at:
                raise SystemExit(0)  # the other mesh is compared over its first steps only
            time.sleep((time.monotonic() - last) / 10)
            last = time.monotonic()
            return {"final": float(np.linalg.norm(params["final_norm"]))}

        return measure


def start(workdir: Path, devices: int = 1, steps: int = STEPS + 1, **mesh: int) -> subprocess.Popen:
    """Starts the child process."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    args = [sys.executable, "-m", "benchmarks.kills", "--child", str(workdir), str(steps), json.dumps(mesh)]
    with open(workdir.parent / f"{workdir.name}.log", "a") as log:
        return subprocess.Popen(args, env=env, stdout=log, stderr=log)


def records(workdir: Path) -> list[dict[str, Any]]:
    """Records without what depends on the clock."""
    return [{k: v for k, v in r.items() if "perf/" not in k} for r in read(workdir / "metrics.jsonl")]


def where(workdir: Path, begun: float) -> tuple[str, int]:
    """What a kill interrupted in the process begun at that time, and the newest finished checkpoint."""
    folder, events = workdir / "checkpoints", workdir / "events.jsonl"
    newest = max(finished_steps(workdir), default=0)
    last = json.loads(events.read_text().splitlines()[-1]) if events.exists() else {"event": "", "time": 0.0}
    if last["time"] < begun:  # what is left over is older than this process
        return "start-up", newest
    if last["event"] == "evaluation begins":
        return "evaluation", newest
    if any("tmp" in p.name for p in folder.iterdir()):
        return "save", newest
    done = max((r["step"] for r in read(workdir / "metrics.jsonl")), default=0)
    return "step" if done > newest or last["event"] in ("save", "evaluation ends") else "start-up", newest


def trains(workdir: Path, begun: float) -> bool:
    """Whether the process begun at that time has logged a step of its own."""
    if not (workdir / "events.jsonl").exists():
        return False
    events = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines() if line.endswith("}")]
    first = next((e["step"] for e in events if e["event"] == "stage" and e["time"] >= begun), None)
    return first is not None and max((r["step"] for r in read(workdir / "metrics.jsonl")), default=0) > first


def kill_often(workdir: Path, kills: int, rng: random.Random) -> list[list[Any]]:
    """Kills the run at random moments until there were enough, then lets it finish; returns a row per kill."""
    rows: list[list[Any]] = []
    short = True
    with progress(kills, "kills") as bar:
        while short:
            early, moment = rng.random() < 0.2, rng.uniform(0, 7)
            process, begun = start(workdir), time.time()
            while not early and not trains(workdir, begun) and process.poll() is None:
                time.sleep(0.1)
            try:
                process.wait(moment)
                raise SystemExit(
                    f"the run ended (exit {process.returncode}) after {len(rows)} kills; see {workdir}.log"
                )
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            what, newest = where(workdir, begun)
            rows.append([len(rows) + 1, time.time() - begun, what, newest])
            bar.update()
            inside = [r[2] for r in rows]
            short = len(rows) < kills or inside.count("save") < 3 or inside.count("evaluation") < 1
    if start(workdir).wait():
        raise SystemExit(f"the last start failed; see {workdir}.log")
    return rows


def compare(whole: Path, killed: Path, other: Path, steps: int) -> None:
    """Prints what is equal; exits with an error where it is not."""
    a, b = records(whole), records(killed)
    same_records = a == b
    same_values = read_run(whole, STEPS)["digests"] == read_run(killed, STEPS)["digests"]
    print(f"{len(a)} records bit for bit equal: {same_records}; parameters and moments at step {STEPS}: {same_values}")
    losses = [{r["step"]: r["train/loss"] for r in x if "train/loss" in r} for x in (a, records(other))]
    worst = max(abs(losses[0][s] / losses[1][s] - 1) for s in range(1, steps + 1))
    same_rows = read_run(whole, steps)["ledger"] == read_run(other, steps)["ledger"]
    print(
        f"mesh fsdp=2 tensor=2, {steps} steps: same rows: {same_rows}, largest relative difference of loss {worst:.2e}"
    )
    if not (same_records and same_values and same_rows and worst < 1e-3):
        raise SystemExit("NOT the same run")


def main() -> None:
    """Runs the three runs and compares them."""
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]) or {"fsdp": 1}))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed, other = (Path(folder) / name for name in ("whole", "killed", "other"))
        begun = time.time()
        if start(whole).wait():
            raise SystemExit((Path(folder) / "whole.log").read_text())
        print(f"uninterrupted: {time.time() - begun:.0f} s", flush=True)
        rows = kill_often(killed, args.kills, random.Random(args.seed))
        print(table(["kill", "after s", "inside", "newest checkpoint"], rows))
        start(other, 4, EVALUATE * 2, fsdp=2, tensor=2).wait()
        compare(whole, killed, other, EVALUATE * 2)


if __name__ == "__main__":
    main()
