"""A tiny run to sweep over, and points whose process is a small script instead of a training."""

import json
import sys
from pathlib import Path

from jaxpt.sweeps.sweep import SweepRun

CONFIG = """
def get_config(folder):
    stage = dict(batch_size=8, sequence_length=64, mixture=dict(a=0.5, b=0.3, c=0.2))
    model = dict(vocab_size=512, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True)
    return dict(
        model=model,
        sources={n: dict(path=folder + "/" + n) for n in "abc"},
        stages=[dict(stage, duration="6 steps")],
        optimizer=dict(learning_rate=1e-2),
        checkpoint=dict(every="2 steps", keep=1),
        metrics=dict(every=1, tensorboard=False),
    )
"""

# What a run leaves, without JAX: a record and a checkpoint per step, each taking a while; `plant` says what is special.
STAND_IN = """
import json, os, pathlib, signal, sys, time
config, run, until, plan = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
me = plan.get(run.name, {})
with open(run.parent / "starts", "a") as f:
    f.write(json.dumps([run.name, os.environ.get("CUDA_VISIBLE_DEVICES"), time.time()]) + chr(10))
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
done = max([int(p.name) for p in (run / "checkpoints").iterdir()], default=0)
for step in range(done + 1, until + 1):
    time.sleep(me.get("pause", 0.0))
    if me.get("dies_at") == step:
        print("jaxpt train: planted", flush=True)
        sys.exit(1)
    loss = me.get("loss", 1.0) + me.get("tail", 4.0) / step
    record = {"step": step, "tokens": 512 * step, "flops": 1000.0 * step, "train/loss": loss}
    record["perf/tokens_per_s"] = 512.0
    if me.get("diverges_at") == step:
        record |= {"train/loss": None, "not_finite": {"train/loss": "nan"}}
    with open(run / "metrics.jsonl", "a") as f:
        f.write(json.dumps(record) + chr(10))
    if me.get("diverges_at") == step:
        print("jaxpt train: the loss at step is nan", flush=True)
        sys.exit(1)
    (run / "checkpoints" / str(step)).mkdir()
    (run / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").touch()
with open(run.parent / "ends", "a") as f:
    f.write(json.dumps([run.name, time.time()]) + chr(10))
"""


class StandIn(SweepRun):
    """A sweep whose points are processes of `STAND_IN`; what is planted lies in `planted.json`."""

    def _command(self, point, number):
        planted = (self.workdir / "planted.json").read_text()
        step = self.costs[point.name].rung_steps[number]
        return (sys.executable, "-S", "-c", STAND_IN, "", str(self.folder(point)), str(step), planted)


def plant(workdir: Path, **points) -> None:
    """Says what is special about points, by their names with a `p` in front."""
    workdir.mkdir(exist_ok=True)
    (workdir / "planted.json").write_text(json.dumps({name[1:]: what for name, what in points.items()}))
