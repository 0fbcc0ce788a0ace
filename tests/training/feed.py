"""A feed that makes its batches from the step's number, for tests of the loop; it can stop, so that a kill never comes
too late, however slow the machine."""

import time
from dataclasses import dataclass

import numpy as np


@dataclass
class MadeSource:
    """Stands for a packed source."""

    rows: int = 1000
    tokens: int = 16000
    sequence_length: int = 16
    vocab_size: int = 48
    tokenizer_fingerprint: str = "f" * 64


def hold(step, at, release):
    """Stops before the batch of step `at` (None: nowhere) until the file `release` is there: mostly for good."""
    while step == at and not release.exists():
        time.sleep(0.05)


class MadeFeed:
    """Counting sequences with random strides: quickly learnt, different in every step. `hold_at`, `release`: `hold`."""

    def __init__(self, plan, hold_at=None, release=None):
        self.plan, self.hold_at, self.release = plan, hold_at, release

    def iterate(self, start_step, rows=lambda size: None):
        for step in range(start_step, self.plan.steps):
            stage = self.plan.stages[self.plan.stage_of(step)].config
            hold(step, self.hold_at, self.release)
            whole = self.batch(step, stage.batch_size, stage.sequence_length)
            part = rows(stage.batch_size) or slice(None)
            yield step, {k: v[part] for k, v in whole.items()}

    def batch(self, step, count, length):
        rng = np.random.default_rng(step)
        tokens = (rng.integers(0, 48, (count, 1)) + np.cumsum(rng.integers(1, 3, (count, length + 1)), axis=1)) % 48
        return {
            "tokens": tokens[:, :-1].astype(np.int32),
            "targets": tokens[:, 1:].astype(np.int32),
            "segment_ids": np.ones((count, length), np.int32),
            "positions": np.tile(np.arange(length, dtype=np.int32), (count, 1)),
            "loss_weights": np.ones((count, length), np.float32),
            "source_id": (np.arange(count) % 2).astype(np.int32),
        }

    def metrics(self, step):
        return {f"data/{what}/{name}": 0.5 for what in ("wanted", "share") for name in "ab"}

    def to_save(self, step):
        return {"schedule_log": {"names": [], "anchors": [], "entries": []}, "ledger": []}
