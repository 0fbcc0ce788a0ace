"""A run directory with checkpoints of a tiny model that were saved, not trained; as a process: saves and prunes.

The parameters of step n are those of seed 0 plus n, so that a reader can tell of which step each part is.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxpt.checkpoints.checkpoints import Checkpoints, Retention
from jaxpt.config.schema import build
from jaxpt.data.mixture import plan_log
from jaxpt.data.weights import StageData
from jaxpt.models.model import Model
from jaxpt.training import run_directory
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import MetricsLog
from tests.training.run_made import CONFIG
from tests.training.tiny import MODEL, PARAMS

LINEAGE = [{"op": "made", "tokens": 4096, "ledger": [{"name": "web", "start": 0, "stop": 512}]}]
TOKENS = 128  # per step


def config(**changes):
    """The run's config."""
    return build(RunConfig, {**CONFIG, **changes})


def prepared(workdir, tokenizer=None, model=MODEL, **changes):
    """The run directory without a checkpoint; returns what is printed."""
    return run_directory.prepare(Path(workdir), config(**changes), model, tokenizer, LINEAGE)


def opened(workdir, keep=2):
    """Its checkpoints, to save more."""
    return Checkpoints(Path(workdir), Retention(keep), asynchronous=False)


def save(checkpoints, step, model=MODEL):
    """Saves step `step` and waits."""
    log = plan_log(("web",), [StageData(0, 1000, 8, 16, {"web": 1.0})]).to_json()
    run = {"tokens": step * TOKENS, "model": model.to_dict(), "schedule_log": log, "ledger": []}
    params = jax.tree.map(lambda x: jnp.asarray(x) + step, PARAMS)
    checkpoints.save(step, {"params": params, "opt_state": {"count": jnp.asarray(step, jnp.int32)}}, run)
    checkpoints.wait()


def step_of(model: Model) -> set[int]:
    """The steps that a loaded model's parts are of."""
    table = model.params["embed"]["table"]
    return {round(float((table - PARAMS["embed"]["table"]).mean())), *(e["steps"] for e in model.lineage[1:])}


def main():
    """WORKDIR: saves and prunes, keeping one, until WORKDIR/stop is there; metrics are logged and cut meanwhile."""
    workdir = Path(sys.argv[1])
    prepared(workdir)
    checkpoints, step = opened(workdir, keep=1), 0
    metrics = MetricsLog(workdir, tensorboard=False)
    while not (workdir / "stop").exists():
        step += 1
        metrics.log(step, {"train/loss": 3.0, "tokens": step, "stage": "stage 0", "optim/learning_rate": 0.1})
        metrics.event("save", step, mesh={"fsdp": 1})
        save(checkpoints, step)
        if step % 10 == 0:
            metrics = MetricsLog(workdir, step - 5, tensorboard=False)  # a restart cuts the file back
            prepared(workdir, seed=0, metrics={"every": step})  # and replaces the small files


if __name__ == "__main__":
    main()
