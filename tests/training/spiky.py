"""A made feed with planted batches, and where a run of it ended."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.config.schema import build
from jaxpt.training import loop, run_directory
from jaxpt.training.config import RunConfig
from jaxpt.training.run_plan import make_plan
from tests.training.feed import MadeFeed, MadeSource
from tests.training.run_made import CONFIG, STAGE

PLAIN = {"stages": [{**STAGE, "duration": "30 steps", "schedule": {"name": "constant"}}]}


class PlantedFeed(MadeFeed):
    """`spikes` are steps whose batch has a row of noise that counts a thousandfold, `nans` those with a weight of NaN.

    `delivered` are the steps that were asked for.
    """

    def __init__(self, plan, spikes=(), nans=(), delivered=None):
        super().__init__(plan)
        self.spikes, self.nans, self.delivered = set(spikes), set(nans), delivered if delivered is not None else []

    def iterate(self, start_step, rows=lambda size: None):
        for step, batch in super().iterate(start_step, rows):
            self.delivered.append(step)
            yield step, batch

    def batch(self, step, count, length):
        out = super().batch(step, count, length)
        rng = np.random.default_rng(10_000 + step)
        if step in self.spikes:
            out["tokens"][0], out["targets"][0] = rng.integers(0, 48, (2, length))
            out["loss_weights"][0] = 1000.0
        if step in self.nans:
            out["loss_weights"][3, 2] = np.nan
        return out


def config_of(**changes):
    """The config of a run of one stage of 30 steps."""
    config = build(RunConfig, {**CONFIG, **PLAIN, **changes})
    return dataclasses.replace(config, sharding=dataclasses.replace(config.sharding, mesh={"fsdp": 1}))


def run(workdir, spikes=(), nans=(), log=lambda line: None, delivered=None, events=(), from_step=None, **changes):
    """Runs, or goes on; returns the exit code."""
    workdir, config = Path(workdir), config_of(**changes)
    plan = make_plan(config, {"a": MadeSource(), "b": MadeSource()})
    run_directory.prepare(workdir, config, plan.model, None, [])
    feed = lambda plan, saved: PlantedFeed(plan, spikes, nans, delivered)  # noqa: E731
    return loop.train(plan, workdir, feed, None, events, log, jax.devices()[:1], from_step)


def end(workdir):
    """The `run` item of the newest checkpoint."""
    return read_run(Path(workdir), finished_steps(Path(workdir))[-1])
