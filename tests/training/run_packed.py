"""A run over real packed sources as a process of its own: FOLDER (sources), WORKDIR, settings as JSON.

Every process writes down which documents were in the rows it was given, read out of their tokens.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxpt.config.duration import parse
from jaxpt.config.schema import build
from jaxpt.data import PackedSource
from jaxpt.training import loop, run_directory
from jaxpt.training.config import RunConfig
from jaxpt.training.events import Changes, Due, Event
from jaxpt.training.feed import make_feed
from jaxpt.training.run_plan import make_plan
from tests.data.made import delivered, source
from tests.training.feed import hold
from tests.training.run_made import CONFIG

ROWS, VOCAB, LENGTH = {"a": 300, "b": 400, "c": 450}, 512, 8
MODEL = {**CONFIG["model"], "vocab_size": VOCAB}
STAGES = [
    {"duration": "12 steps", "batch_size": 8, "mixture": {"a": 1.0, "b": 1.0, "c": 1.0}},
    {"duration": "10 steps", "batch_size": 4, "mixture": {"a": 0.03, "b": 1 / 3, "c": 0.5}},
    {"duration": "10 steps", "batch_size": 12, "mixture": {"a": 0.6, "b": 0.2, "c": 0.2}},
]


def make(folder):
    """Writes the sources."""
    for i, (name, rows) in enumerate(ROWS.items()):
        source(Path(folder) / name, rows, LENGTH, tag=i, vocab=VOCAB)


class Recorded:
    """A feed that writes down what it gave, and stops for good before the batch of step `hold_at`."""

    def __init__(self, feed, path, hold_at):
        self._feed, self._path, self._hold_at = feed, path, hold_at

    def __getattr__(self, name):
        return getattr(self._feed, name)

    def iterate(self, start_step, rows):
        for step, batch in self._feed.iterate(start_step, rows):
            hold(step, self._hold_at, self._path.with_suffix(".release"))
            size = len(batch["source_id"])
            first = next((r.start for r in (rows(n) for n in (4, 8, 12)) if r and r.stop - r.start == size), 0)
            with open(self._path, "a", encoding="utf-8") as f:
                f.write(json.dumps([step, first, delivered(batch)]) + "\n")
            yield step, batch


class FollowTheNorm(Event):
    """Weights that hang on every bit of the parameters; a stage begins with its own."""

    def __init__(self, every):
        self.due = Due(parse(every, "every"))

    def is_due(self, view):
        return super().is_due(view) and view.step < view.stage.stop

    def act(self, view):
        norm = float(jnp.linalg.norm(view.params["embed"]["table"]))
        part = norm * 1e3 % 1
        weights = {"a": 0.1 + part, "b": 0.1 + (1 - part), "c": 0.3}
        return Changes({"reweight/weight/a": part}, weights)


def start(folder, workdir, *, hold_at=None, devices=1, stages=STAGES, reweight=None, events=(), log=print):
    """Runs, at most up to the batch of step `hold_at`; returns the exit code."""
    values = {**CONFIG, "model": MODEL, "sharding": {"mesh": {"fsdp": devices}}}
    values["sources"] = {n: {"path": f"{folder}/{n}"} for n in ROWS}
    values["stages"] = [{**s, "sequence_length": LENGTH} for s in stages]
    config = build(RunConfig, values)
    plan = make_plan(config, {n: PackedSource.open(s.path) for n, s in config.sources.items()})
    if jax.process_index() == 0:
        run_directory.prepare(Path(workdir), config, plan.model, None, [])
    where = Path(folder) / f"{Path(workdir).name}.{jax.process_index()}.delivered"
    feed = lambda plan, saved: Recorded(make_feed(plan, saved, log=log), where, hold_at)  # noqa: E731
    events = [*events, *([FollowTheNorm(reweight)] if reweight else [])]
    return loop.train(plan, Path(workdir), feed, events=events, log=log, devices=jax.devices()[:devices])


def main():
    """One process, or one of `processes` where `coordinator` is given."""
    settings = json.loads(sys.argv[3])
    if "coordinator" in settings:
        count, index = settings.pop("processes"), settings.pop("process")
        jax.distributed.initialize(settings.pop("coordinator"), count, index)
    return start(sys.argv[1], sys.argv[2], **settings)


if __name__ == "__main__":
    sys.exit(main())
