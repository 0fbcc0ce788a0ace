"""Several hosts count the targets of a batch before the step on the one before it, bit for bit as after it."""

import json

import pytest

from benchmarks.made_sources import make_sources
from jaxpt.checkpoints.checkpoints import read_run
from jaxpt.training.ready import one_ahead
from tests.training.processes import free_address, start
from tests.training.test_interrupt import CONFIG


def order_of(iterate):
    """What happens in which order when batches 0, 1, 2 are taken."""
    happened = []

    def prepare(item):
        happened.append(f"count {item}")
        return item

    for item in iterate(iter(range(3)), prepare):
        happened.append(f"step {item}")
    return happened


def test_a_batch_is_counted_before_the_step_on_the_one_before_it():
    assert order_of(one_ahead) == ["count 0", "count 1", "step 0", "count 2", "step 1", "step 2"]
    assert order_of(lambda items, prepare: map(prepare, items))[1:3] == ["step 0", "count 1"]  # what it would be else


@pytest.mark.parametrize("count", [0, 1, 2])
def test_every_batch_comes_once(count):
    assert list(one_ahead(iter(range(count)), str)) == [str(i) for i in range(count)]


@pytest.mark.slow
def test_two_processes_end_with_the_same_bits_whether_they_count_ahead_or_not(tmp_path):
    make_sources(tmp_path / "sources", rows=50)
    short = CONFIG.replace("SOURCES", str(tmp_path / "sources")).replace("1000000 steps", "6 steps")
    (tmp_path / "config.py").write_text(short)
    seen = {}
    for ahead in (True, False):
        workdir, address = tmp_path / f"run{ahead}", free_address()
        settings = [{"coordinator": address, "processes": 2, "process": i, "ahead": ahead} for i in range(2)]
        processes = [start("run_command", tmp_path / "config.py", workdir, one) for one in settings]
        printed = [p.communicate(timeout=300)[0] for p in processes]
        assert [p.returncode for p in processes] == [0, 0], printed
        targets = [json.loads(line).get("train/targets") for line in (workdir / "metrics.jsonl").open()]
        seen[ahead] = read_run(workdir, 6)["digests"], targets
    assert seen[True] == seen[False]
