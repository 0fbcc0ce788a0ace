"""Checkpoints that stay for their score: which those are, whoever comes first, and how they are named."""

import math
import random
from dataclasses import replace

import pytest

from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import Retention
from jaxpt.checkpoints.marks import KeptByScore, ScoredCheckpoint
from jaxpt.errors import JaxptError


def scored(step, value, stage="main", digest=None):
    return ScoredCheckpoint(step, stage, digest or f"d{step}", value)


def there(*steps):
    return {step: f"d{step}" for step in steps}


def test_the_best_of_each_stage_is_the_earliest_of_equals_and_never_nan():
    kept = KeptByScore(
        "e", "acc", True, 0, (scored(3, 0.5), scored(1, 0.2), scored(2, 0.5), scored(4, math.nan), scored(5, 0.1, "b"))
    )
    best = kept.best(there(1, 2, 3, 4, 5))
    assert {stage: one.step for stage, one in best.items()} == {"main": 2, "b": 5}
    lower = replace(kept, higher_is_better=False)
    assert lower.best(there(1, 2, 3, 4, 5))["main"].step == 1
    assert kept.best(there(1, 3))["main"].step == 3  # of those that are there


def test_a_checkpoint_that_was_trained_anew_is_another_one():
    kept = KeptByScore("e", "acc", True, 5, (scored(1, 0.2), scored(2, 0.9)))
    now = {1: "d1", 2: "trained anew"}
    assert kept.best(now)["main"].step == 1
    assert kept.spared(now) == {1, 2}  # 2 waits for its score
    assert replace(kept, waits=0).spared(now) == {1}


def test_only_the_newest_of_too_many_wait():
    assert KeptByScore("e", "acc", waits=2).spared(there(1, 2, 3, 4)) == {3, 4}
    assert KeptByScore("e", "acc", waits=9).spared(there(1, 2)) == {1, 2}
    assert KeptByScore("e", "acc").spared(there(1, 2)) == set()


def simulate(seed, waits):
    """A run that saves and removes, a follower that scores the oldest, in any order; how often a best was removed."""
    rng, retention = random.Random(seed), Retention(2)
    values = {step: rng.random() for step in range(1, 41)}
    on_disk, lost, step = [], 0, 0
    kept = KeptByScore("e", "acc", True, waits)
    while step < 40 or len(kept.scored) < 40:
        done = {one.step for one in kept.scored}
        waiting = [s for s in on_disk if s not in done]
        if step < 40 and (not waiting or rng.random() < 0.5) and len(waiting) < 5:
            read = kept  # what the run removes follows from what it read, while the follower goes on
            step += 1
            on_disk.append(step)
            if waiting and rng.random() < 0.5:
                kept = replace(kept, scored=(*kept.scored, scored(waiting[0], values[waiting[0]])))
            spared = read.spared(there(*on_disk))
            on_disk = [s for s in on_disk if s not in retention.superfluous(on_disk) or s in spared]
        elif waiting:
            kept = replace(kept, scored=(*kept.scored, scored(waiting[0], values[waiting[0]])))
        else:
            break
        known = [one.step for one in kept.scored]
        lost += bool(known) and max(known, key=values.get) not in on_disk
    return lost


def test_whoever_comes_first_the_best_so_far_is_never_removed():
    assert sum(simulate(seed, waits=5) for seed in range(200)) == 0


def test_without_waiting_the_best_would_be_lost():
    assert sum(simulate(seed, waits=0) for seed in range(200)) > 0


def test_what_was_written_is_read_and_what_is_broken_is_named(tmp_path):
    kept = KeptByScore("e", "sums/acc", False, 3, (scored(1, 0.25), scored(2, math.nan)))
    marks.write(tmp_path, kept)
    (again,) = marks.read(tmp_path)
    assert repr(again) == repr(kept)
    assert not list(tmp_path.glob("scores/e/*.tmp"))
    (tmp_path / "scores/e/kept.json").write_text('{"metric": 1')
    with pytest.raises(JaxptError, match=r"scores/e/kept\.json is broken; remove it"):
        marks.read(tmp_path)
