"""The feed takes what the plan says, goes on where it stopped, and keeps its books at no growing cost."""

import pytest

from benchmarks.made_sources import make_sources
from jaxpt.config.schema import build
from jaxpt.data import PackedSource
from jaxpt.data.quota import Quota
from jaxpt.errors import JaxptError
from jaxpt.training.config import RunConfig
from jaxpt.training.feed import make_feed
from jaxpt.training.run_plan import make_plan

MODEL = {"vocab_size": 512, "embed": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp": 32, "layers": 1}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return make_sources(tmp_path_factory.mktemp("feed"))


def plan(sources, *stages, repeat=100):
    config = {
        "model": MODEL,
        "sources": {n: {"path": str(p), "repeat": repeat} for n, p in sources.items()},
        "stages": [
            {"duration": f"{n} steps", "batch_size": 4, "sequence_length": 64, "mixture": mixture}
            for n, mixture in stages
        ],
    }
    opened = {n: PackedSource.open(p) for n, p in sources.items()}
    return make_plan(build(RunConfig, config), opened)


def rows(feed, start, count):
    batches = feed.iterate(start)
    return [next(batches)[1] for _ in range(count)]


def same(a, b):
    return all((x["row_id"] == y["row_id"]).all() and (x["source_id"] == y["source_id"]).all() for x, y in zip(a, b))


FIRST, SECOND = (20, {"a": 0.5, "b": 0.5}), (20, {"b": 0.1, "c": 0.9})


def test_a_resumed_feed_gives_the_rows_that_would_have_come(sources):
    whole = plan(sources, FIRST, SECOND)
    feed = make_feed(whole, None)
    saved = {"step": 13, **feed.to_save(13)}
    assert same(rows(make_feed(whole, saved), 13, 27), rows(feed, 13, 27))


def test_a_stage_added_after_the_checkpoint_is_followed(sources):
    saved = {"step": 20, **make_feed(plan(sources, FIRST), None).to_save(20)}
    whole = plan(sources, FIRST, SECOND)
    assert same(rows(make_feed(whole, saved), 20, 20), rows(make_feed(whole, None), 20, 20))


def test_a_mixture_changed_after_the_checkpoint_holds_from_there_on(sources):
    saved = {"step": 10, **make_feed(plan(sources, FIRST), None).to_save(10)}
    changed = make_feed(plan(sources, (20, {"c": 1.0})), saved)
    assert {int(i) for batch in rows(changed, 10, 10) for i in batch["source_id"]} == {2}


def test_rows_used_before_are_not_taken_again(sources):
    ledger = make_feed(plan(sources, FIRST, repeat=3), None).to_save(20)["ledger"]
    again = make_feed(plan(sources, FIRST, repeat=3), None, ledger).to_save(20)["ledger"]
    assert sum(e["stop"] - e["start"] for e in again) == 2 * 20 * 4


def test_more_rows_than_there_are_is_an_error_with_the_way_out(sources):
    with pytest.raises(
        JaxptError, match=r"config\.sources\.a has .* rows for this run, the plan needs 4,000; set --config\.sources\.a"
    ):
        make_feed(plan(sources, (1000, {"a": 1.0}), repeat=1), None)


def test_bookkeeping_costs_a_batch_not_the_run_so_far(sources, monkeypatch):
    feed = make_feed(plan(sources, (300, {"a": 0.5, "b": 0.5})), None)
    taken, take = [], Quota.take
    monkeypatch.setattr(Quota, "take", lambda self, n: (taken.append(n), take(self, n))[1])
    for step in range(1, 301):
        feed.metrics(step)
        if step % 10 == 0:
            feed.to_save(step)
    assert sum(taken) < 10 * 300 * 4
