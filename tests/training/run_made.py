"""A run over made batches as a process of its own, to be killed: WORKDIR and settings as JSON on the command line."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxpt.config.schema import build
from jaxpt.evaluation.evaluation import Evaluation
from jaxpt.training import loop, run_directory
from jaxpt.training.config import RunConfig
from jaxpt.training.evaluating import Evaluating
from jaxpt.training.run_plan import make_plan
from tests.training.feed import MadeFeed, MadeSource, hold

STAGE = {"batch_size": 8, "sequence_length": 16, "mixture": {"a": 1.0, "b": 1.0}}
CONFIG = {
    "model": {
        "vocab_size": 48,
        "embed": 16,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "mlp": 32,
        "layers": 2,
        "tie_embeddings": True,
    },
    "sources": {"a": {"path": "made"}, "b": {"path": "made"}},
    "optimizer": {"learning_rate": 1e-2},
    "checkpoint": {"every": "5 steps", "keep": 2},
    "metrics": {"every": 1, "tensorboard": False},
    "sharding": {"mesh": {"fsdp": 1}},
    "stages": [
        {**STAGE, "duration": "20 steps", "schedule": {"name": "wsd", "warmup": "4 steps", "end": 0.0}},
        {**STAGE, "duration": "10 steps", "load": "params", "learning_rate": 1e-3},
    ],
}


@dataclass(frozen=True)
class FinalNorm(Evaluation):
    """An evaluation that can wait: `eval/norm/final`, the length of the last norm's scale."""

    hold_at: int | None = None
    release: Path | None = None

    def prepare(self, setting):
        """Measures `[D]` float32."""

        def measure(step, params):
            hold(step, self.hold_at, self.release)
            return {"final": float(jnp.linalg.norm(params["final_norm"]))}

        return measure


def start(
    workdir,
    *,
    hold_at=None,
    hold_evaluation=None,
    evaluate="10 steps",
    events=(),
    devices=1,
    log=print,
    from_step=None,
    **changes,
):
    """Runs; before a batch or in an evaluation it may wait for WORKDIR/release. Returns the exit code."""
    config = build(RunConfig, {**CONFIG, **changes})
    config = dataclasses.replace(config, sharding=dataclasses.replace(config.sharding, mesh={"fsdp": devices}))
    plan = make_plan(config, {"a": MadeSource(), "b": MadeSource()})

    release = Path(workdir) / "release"

    if jax.process_index() == 0:
        run_directory.prepare(Path(workdir), config, plan.model, None, [])
    feed = lambda plan, saved: MadeFeed(plan, hold_at, release)  # noqa: E731
    events = [*events, Evaluating("norm", FinalNorm(evaluate, hold_at=hold_evaluation, release=release))]
    devices = jax.devices()[:devices]
    return loop.train(plan, Path(workdir), feed, None, events, log, devices, from_step)


def main():
    """One process, or one of several where `coordinator` and `process` are given."""
    settings = json.loads(sys.argv[2])
    if "coordinator" in settings:
        jax.distributed.initialize(settings.pop("coordinator"), 2, settings.pop("process"))
    return start(sys.argv[1], **settings)


if __name__ == "__main__":
    sys.exit(main())
