"""A run killed with SIGKILL and started again ends with the same bits, under deterministic flags."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sizes import Sizes
from benchmarks.made_sources import VOCAB, make_sources

STEPS, EVERY = 30, 10
CHILD = "from benchmarks.gpu.sections.resume import child; import sys; sys.exit(child(sys.argv[1], sys.argv[2]))"


def child(folder: str, name: str) -> int:
    """The run itself: bfloat16, packed rows, the platform's own kernels."""
    from jaxpt.sharding.xla_flags import set_flags

    print(set_flags(deterministic=True), flush=True)
    from jaxpt.commands.train import train
    from jaxpt.config.schema import build
    from jaxpt.training.config import RunConfig

    wide = os.environ["JAXPT_BENCHMARK_TINY"] == ""
    length = 512 if wide else 64
    sources = make_sources(Path(folder) / "sources", 256, length)
    size = {"embed": 512, "heads": 4, "kv_heads": 2, "head_dim": 128, "mlp": 1536, "layers": 4}
    small = {"embed": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "mlp": 64, "layers": 2}
    stage = {"duration": f"{STEPS} steps", "batch_size": 16 if wide else 2, "sequence_length": length}
    config = {
        "model": {"vocab_size": VOCAB, "tie_embeddings": True, **(size if wide else small)},
        "sources": {name: {"path": str(path), "repeat": 1000} for name, path in sources.items()},
        "stages": [{**stage, "mixture": dict.fromkeys(sources, 1.0), "schedule": {"name": "wsd", "warmup": "5 steps"}}],
        "compute": {"dtype": "bfloat16", "remat": "kernels"},
        "checkpoint": {"every": f"{EVERY} steps", "keep": 3},
        "metrics": {"every": 1, "tensorboard": False},
        "sharding": {"mesh": {"fsdp": 1}},
    }
    return train(build(RunConfig, config), Path(folder) / name)


def start(folder: Path, name: str, tiny: bool) -> subprocess.Popen[bytes]:
    """Starts the run in a process of its own."""
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAXPT_BENCHMARK_TINY": "1" if tiny else ""}
    with open(folder / f"{name}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), name], env=environment, stdout=log, stderr=log
        )


def measure(sizes: Sizes, rows: Rows) -> None:
    """Runs once without interruption, and once killed between two checkpoints."""
    rows.measure("resume", 45, lambda: run(sizes, rows))


def run(sizes: Sizes, rows: Rows) -> dict[str, Any]:
    """Returns whether records and digests of all that is trained are equal bit for bit."""
    from jaxpt.checkpoints.checkpoints import read_run
    from jaxpt.training.metrics import read

    tiny = sizes.sequence < 1024
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_sources(folder / "sources", 256, 64 if tiny else 512)
        _finished(start(folder, "whole", tiny), folder, "whole", rows)
        process = start(folder, "killed", tiny)
        while process.poll() is None and _newest(folder / "killed") < EVERY + 3:
            time.sleep(0.02)
        process.kill()
        killed_at = _newest(folder / "killed")
        ended = process.wait()
        _finished(start(folder, "killed", tiny), folder, "killed", rows)
        records = [
            [{k: v for k, v in r.items() if "perf/" not in k} for r in read(folder / name / "metrics.jsonl")]
            for name in ("whole", "killed")
        ]
        digests = [read_run(folder / name, STEPS)["digests"] for name in ("whole", "killed")]
    return {
        "same_records": records[0] == records[1],
        "same_parameters_and_moments": digests[0] == digests[1],
        "killed_after_step": killed_at,
        "exit": ended,
        "last_loss": records[0][-1]["train/loss"],
    }


def _newest(workdir: Path) -> int:
    from jaxpt.training.metrics import read

    path = workdir / "metrics.jsonl"
    return max((r["step"] for r in read(path)), default=0) if path.exists() else 0


def _finished(process: subprocess.Popen[bytes], folder: Path, name: str, rows: Rows) -> None:
    if process.wait(max(5.0, rows.left())):
        raise RuntimeError((folder / f"{name}.log").read_text()[-1500:])
