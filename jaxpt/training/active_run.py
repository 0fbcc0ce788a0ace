"""A run in progress: what the loop and its own events share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxpt.checkpoints.checkpoints import Checkpoints
from jaxpt.models.batch import Batch
from jaxpt.models.params import Array
from jaxpt.optim.guard import token_count
from jaxpt.training.events import Changes, Event
from jaxpt.training.feed import Feed
from jaxpt.training.interrupt import Interrupt
from jaxpt.training.metrics import MetricsLog
from jaxpt.training.program import Program
from jaxpt.training.rollbacks import PassedOver, ranges
from jaxpt.training.run_plan import RunPlan
from jaxpt.training.safeguards import judge_state
from jaxpt.training.speed import Clock
from jaxpt.training.state import State

Log = Callable[[str], None]  # prints a line for the person watching


@dataclass(kw_only=True)
class ActiveRun:
    """What does not change from start to end, and below it what every step changes."""

    plan: RunPlan
    workdir: Path
    program: Program
    peak_flops: float  # FLOP/s of all devices, which MFU divides by
    feed: Feed
    checkpoints: Checkpoints
    metrics: MetricsLog
    log: Log
    check_writer: Callable[[], None]  # raises where another process has taken over the directory
    interrupt: Interrupt  # asks to stop

    state: State[Array]
    step: int  # finished steps
    passed: Sequence[PassedOver] = ()  # steps that rollbacks pass over
    events: Sequence[Event] = ()
    clock: Clock = field(default_factory=Clock)
    batches: Iterator[tuple[int, Batch[np.ndarray]]] = field(default_factory=lambda: iter(()))
    values: Mapping[str, jax.Array | int] = field(default_factory=dict)  # what the last step returned, on the devices
    progress: tqdm | None = None
    save_requested: bool = False
    stop_requested: str | None = None

    @property
    def done(self) -> bool:
        """Whether all stages are finished."""
        return self.step >= self.plan.steps

    @property
    def was_skipped(self) -> bool:
        """Whether the guard skipped the last step, for which this waits."""
        return bool(self.values.get("skipped", False))

    @property
    def trained_tokens(self) -> int:
        """Positions (B × S) of the finished steps that changed the state; waits for the last step."""
        skipped, tokens = judge_state(self.state.guard).get("skipped_tokens"), self.plan.tokens_at
        passed = sum(tokens(stop) - tokens(first) for first, stop in ranges(self.passed, self.step))
        return tokens(self.step) - passed - (0 if skipped is None else token_count(skipped))

    def passes_over(self, step: int) -> bool:
        """Whether the step of this number is not trained, after a rollback."""
        return any(step in r for r in self.passed)

    def record(self, values: Mapping[str, Any]) -> None:
        """Appends a record of this step to the metrics."""
        self.check_writer()
        self.metrics.log(self.step, values)

    def apply(self, changes: Changes) -> None:
        """Takes over what an event returned."""
        if changes.weights is not None:
            self.feed.change(self.step, changes.weights)
        if changes.values:
            for name in (n for n, v in changes.values.items() if not np.isfinite(v)):
                self.log(f"{name} at step {self.step} is {changes.values[name]}")
            self.record({"tokens": self.plan.tokens_at(self.step), **changes.values})
        self.save_requested |= changes.save
        self.stop_requested = self.stop_requested or changes.stop
