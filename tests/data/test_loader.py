"""Delivered batches, read by their documents: exact shares, no row twice, the same on any number of hosts."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpt.data import Loader, StageData
from jaxpt.data.ledger import Ledger, Used
from jaxpt.data.log import ScheduleLog
from jaxpt.data.order import SourceOrder
from jaxpt.data.seen import documents_used
from jaxpt.errors import JaxptError
from tests.data.made import delivered, source

ROWS = {"a": 400, "b": 300, "c": 900}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {name: source(folder / name, n, tag=i) for i, (name, n) in enumerate(ROWS.items())}


def oracle(batches, stages, names=tuple(ROWS)):
    """Reads documents out of the delivered tokens: no document twice, and every prefix within one row of its share."""
    seen, counts, rows, weights = set(), np.zeros(len(names)), 0, None
    for stage, batch in batches:
        wanted = np.array([stages[stage].weights.get(n, 0) for n in names])
        if weights is None or not np.allclose(wanted / wanted.sum(), weights):
            counts, rows, weights = np.zeros(len(names)), 0, wanted / wanted.sum()
        for document in delivered(batch):
            assert document not in seen, f"document {document} twice"
            seen.add(document)
            counts[document[0]] += 1
            rows += 1
            assert np.all(np.abs(counts - weights * rows) < 1 + 1e-6)


def plan(parts):
    """Stages from (steps, batch size, weights)."""
    first, out = 0, []
    for steps, size, weights in parts:
        out.append(StageData(first, steps, size, 8, dict(zip(ROWS, weights))))
        first += steps
    return out


def walk(loader, stages, steps=None):
    """(stage, batch) of every step."""
    for i, stage in enumerate(stages):
        for step in range(stage.first_step, stage.first_step + stage.steps):
            if steps is None or step in steps:
                yield i, loader.batch(step)


STAGES = st.lists(
    st.tuples(
        st.integers(1, 8),
        st.integers(1, 17),
        st.tuples(*[st.sampled_from([0.03, 1 / 3, 0.5, 1.0, 0.2])] * 3),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STAGES)
def test_the_oracle_agrees_for_any_stages(sources, parts):
    stages = plan(parts)
    oracle(walk(Loader(sources, stages), stages), stages)


def test_the_oracle_catches_an_off_by_one_at_a_stage_boundary(sources):
    stages = plan([(5, 8, (1, 1, 1)), (5, 6, (1, 2, 1))])
    loader = Loader(sources, stages)
    log = ScheduleLog.from_json(loader.to_save(5)["schedule_log"])
    second = log.anchors[1]
    log.anchors[1] = replace(second, consumed=(*second.consumed[:2], second.consumed[2] - 1))
    loader = Loader(sources, stages, log=log)
    with pytest.raises(AssertionError, match="twice"):
        oracle(walk(loader, stages), stages)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STAGES, st.lists(st.integers(0, 23), min_size=1, max_size=4))
def test_any_restart_from_a_saved_log_gives_the_same_batches(sources, parts, stops):
    stages = plan(parts)
    total = stages[-1].first_step + stages[-1].steps
    whole = [delivered(b) for _, b in walk(Loader(sources, stages), stages)]
    saved = None
    for stop in sorted({min(s, total) for s in stops}):
        log = ScheduleLog.from_json(json.loads(json.dumps(saved["schedule_log"]))) if saved else None
        loader = Loader(sources, stages, log=log)
        saved = loader.to_save(stop)
    loader = Loader(sources, stages, log=ScheduleLog.from_json(json.loads(json.dumps(saved["schedule_log"]))))
    for step in range(stop, total):
        assert delivered(loader.batch(step)) == whole[step]


LONG = {"d": 250, "e": 300}
MIXED = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(1, 5),
        st.integers(1, 11),
        st.tuples(*[st.sampled_from([0.03, 1 / 3, 0.5, 1.0, 0.2])] * 3),
    ),
    min_size=2,
    max_size=4,
)
LEGS = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([1, 2, 4])), max_size=5)  # (steps, hosts) until a restart


@pytest.fixture(scope="module")
def both_lengths(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    return {
        **sources,
        **{n: source(folder / n, rows, length=16, tag=3 + i) for i, (n, rows) in enumerate(LONG.items())},
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MIXED, LEGS)
def test_the_oracle_agrees_across_lengths_batch_sizes_restarts_and_numbers_of_hosts(both_lengths, parts, legs):
    first, stages = 0, []
    for long, steps, size, weights in parts:
        names, length = (LONG, 16) if long else (ROWS, 8)
        stages.append(StageData(first, steps, size, length, dict(zip(names, weights))))
        first += steps
    batches, saved = [], None
    for steps, hosts in [*legs, (first, 1)]:
        log = ScheduleLog.from_json(json.loads(json.dumps(saved["schedule_log"]))) if saved else None
        loader = Loader(both_lengths, stages, log=log)
        start, stop = len(batches), min(len(batches) + steps, first)
        for step in range(start, stop):
            stage = max(i for i, s in enumerate(stages) if s.first_step <= step)
            edges = [stages[stage].batch_size * h // hosts for h in range(hosts + 1)]
            shares = [loader.batch(step, slice(a, b)) for a, b in itertools.pairwise(edges) if b > a]
            batches.append((stage, {"tokens": np.concatenate([share["tokens"] for share in shares])}))
        saved = loader.to_save(stop)
    assert len(batches) == first
    oracle(batches, stages, (*ROWS, *LONG))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_together_see_the_global_batch(sources, hosts):
    stages = plan([(3, 8, (1, 2, 3))])
    whole = Loader(sources, stages)
    share = 8 // hosts
    loaders = [Loader(sources, stages) for _ in range(hosts)]
    for step in range(3):
        parts = [loader.batch(step, slice(h * share, (h + 1) * share)) for h, loader in enumerate(loaders)]
        for name, value in whole.batch(step).items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value, err_msg=name)


def test_reading_ahead_gives_the_batches_of_random_access(sources):
    stages = plan([(6, 5, (1, 2, 3)), (6, 4, (3, 1, 1))])
    ahead = list(Loader(sources, stages).iterate(2))
    assert [step for step, _ in ahead] == list(range(2, 12))
    back = Loader(sources, stages)
    for step, batch in reversed(ahead):
        assert delivered(back.batch(step)) == delivered(batch)


def test_a_row_that_two_sources_of_other_widths_mix_is_read_right(tmp_path, sources):
    from jaxpt.data.packed import PackedWriter
    from jaxpt.data.packing import Document, best_fit

    narrow = [Document(np.full(8, 100 + i), np.ones(8, bool), i) for i in range(20)]
    with PackedWriter(tmp_path / "n", 8, 500) as writer:
        for packed in best_fit(narrow, 8, 0):
            writer.write(packed)
        made = writer.finish([bytes([i]) * 16 for i in range(20)], [8] * 20, "made", {})
    both = {"a": sources["a"], "n": made}
    batch = Loader(both, [StageData(0, 1, 10, 8, {"a": 1, "n": 1})]).batch(0)
    assert (made.facts["dtype"], sources["a"].facts["dtype"]) == ("uint16", "uint32")
    for i, row in zip(batch["source_id"], batch["tokens"]):
        assert (len(set(row.tolist())) == 1) == (i == 1)


def test_a_second_run_takes_no_row_of_the_first(sources):
    stages = plan([(10, 12, (2, 1, 3))])
    first = Loader(sources, stages)
    seen = {d for _, b in walk(first, stages) for d in delivered(b)}
    saved = json.loads(json.dumps(first.ledger(10).to_json()))
    second = Loader(sources, stages, used=Ledger.from_json(saved))
    again = {d for _, b in walk(second, stages) for d in delivered(b)}
    assert len(seen) == len(again) == 120
    assert not seen & again
    both = second.ledger(10)
    assert sum(both.rows(s.fingerprint) for s in sources.values()) == 240
    # the check can fail: a ledger that forgets one row lets it come again
    entry = saved[0]
    saved[0] = {**entry, "stop": entry["stop"] - 1}
    planted = Loader(sources, stages, used=Ledger.from_json(saved))
    assert len(seen & {d for _, b in walk(planted, stages) for d in delivered(b)}) == 1


def test_a_ledger_of_very_many_ranges_is_merged_in_one_pass():
    ranges = [Used("f", "k", 0, 3 * i, 3 * i + 2) for i in range(20_000)]
    ledger = Ledger([*ranges, Used("f", "k", 0, 29, 31)])
    assert len(ledger.entries) == 20_000 - 1
    assert ledger.rows("f") == 40_001
    assert Ledger.from_json(ledger.to_json()).entries == ledger.entries


def test_ledgers_of_branches_unite():
    one = Ledger([Used("f", "k", 0, 0, 10), Used("f", "k", 0, 20, 30)])
    two = Ledger([Used("f", "k", 0, 5, 22), Used("f", "k", 1, 0, 3)])
    assert one.union(two).ranges("f", "k", 0) == [(0, 30)]
    assert one.union(two).rows("f") == 33


def test_epochs_are_whole_and_each_in_another_order(sources):
    order = SourceOrder(sources["b"], repeat=2)
    rows = order.take(np.arange(600))
    for epoch in (rows[:300], rows[300:]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(300))
    assert not np.array_equal(rows[:300], rows[300:])
    with pytest.raises(JaxptError, match=r"source b is used up: this run has 600 rows"):
        order.take(np.array([600]))


def test_documents_already_seen_are_left_out_of_a_repacked_source(tmp_path, sources):
    stages = plan([(5, 10, (1, 0, 0))])
    loader = Loader(sources, stages)
    for _ in walk(loader, stages):
        pass
    seen = documents_used(sources["a"], loader.ledger(5).entries)
    assert len(seen) == 50
    repacked = source(tmp_path / "again", ROWS["a"], tag=0, seed=9)  # other rows, the same document ids
    assert repacked.fingerprint != sources["a"].fingerprint
    order = SourceOrder(repacked, seen_documents=seen)
    assert order.rows == ROWS["a"] - 50
    left = {d for row in order.take(np.arange(order.rows)) for d in repacked.row_documents(row)}
    assert not left & {d.tobytes() for d in seen}


def test_weights_changed_while_running_hold_from_there_and_replay(sources):
    stages = plan([(20, 10, (1, 1, 1))])
    loader = Loader(sources, stages)
    before = [delivered(loader.batch(s)) for s in range(8)]
    loader.change(8, {"a": 0.8, "b": 0.2})
    after = [delivered(loader.batch(s)) for s in range(8, 20)]
    assert {tag for b in after for tag, _ in b} == {0, 1}
    counts = np.bincount([tag for b in after for tag, _ in b], minlength=3)
    assert abs(counts[0] - 96) < 1
    again = Loader(sources, stages, log=ScheduleLog.from_json(json.loads(json.dumps(loader.log.to_json()))))
    assert [delivered(again.batch(s)) for s in range(20)] == before + after
    everything = [d for b in before + after for d in b]
    assert len(set(everything)) == len(everything)
    deviation = again.mixture.deviation(20)
    assert abs(sum(deviation.values())) < 1e-6
    assert max(map(abs, deviation.values())) < 2


def test_shares_wanted_and_realised_are_said(sources):
    loader = Loader(sources, plan([(30, 10, (1, 2, 1))]))
    wanted, real = loader.shares(30)
    assert wanted == pytest.approx({"a": 0.25, "b": 0.5, "c": 0.25})
    assert real == pytest.approx(wanted, abs=1 / 300)


def test_mistakes_in_a_plan_are_named(sources):
    with pytest.raises(JaxptError, match=r"stages\[0\]\.mixture\.d: there is no such source"):
        Loader(sources, [StageData(0, 5, 4, 8, {"d": 1.0})])
    with pytest.raises(JaxptError, match=r"stages\[1\] begins at step 6"):
        Loader(sources, [StageData(0, 5, 4, 8, {"a": 1}), StageData(6, 5, 4, 8, {"a": 1})])
    with pytest.raises(JaxptError, match=r"sources a and again hold the same rows .* name them once"):
        Loader({**sources, "again": sources["a"]}, plan([(5, 4, (1, 1, 1))]))
    saved = Loader(sources, plan([(5, 4, (1, 1, 1))])).log
    with pytest.raises(JaxptError, match="the checkpoint's sources are a, b, c, the run's are a, b"):
        Loader({n: sources[n] for n in ("a", "b")}, [StageData(0, 5, 4, 8, {"a": 1})], log=saved)


def test_a_log_saved_before_the_first_step_keeps_the_later_stages(sources):
    stages = plan([(1, 1, (1, 1, 1)), (3, 4, (1, 1, 5))])
    saved = Loader(sources, stages).to_save(0)
    assert [e["step"] for e in saved["schedule_log"]["entries"]] == [0, 1]
    again = Loader(sources, stages, log=ScheduleLog.from_json(json.loads(json.dumps(saved["schedule_log"]))))
    assert delivered(again.batch(3)) == delivered(Loader(sources, stages).batch(3))


def test_a_stage_of_longer_rows_between_two_others_costs_no_row(tmp_path, sources):
    long = source(tmp_path / "long", 60, length=16, tag=3)
    mixed = {"a": 0.4, "b": 0.6}
    stages = [StageData(0, 7, 5, 8, mixed), StageData(7, 6, 3, 16, {"long": 1}), StageData(13, 9, 8, 8, mixed)]
    loader = Loader({**sources, "long": long}, stages)
    batches = [loader.batch(step) for step in range(22)]
    assert [b["tokens"].shape for b in batches] == [(5, 8)] * 7 + [(3, 16)] * 6 + [(8, 8)] * 9
    documents = [d for b in batches for d in delivered(b)]
    assert len(set(documents)) == len(documents) == 35 + 18 + 72
    assert loader.log.anchors[0].step == 0
    resumed = Loader(loader.sources, stages, log=ScheduleLog.from_json(loader.to_save(9)["schedule_log"]))
    assert [delivered(resumed.batch(step)) for step in range(9, 22)] == [delivered(b) for b in batches[9:]]
    taken = {(e.name, e.start, e.stop) for e in loader.ledger(22).entries}
    counts = np.bincount([tag for tag, _ in documents], minlength=4)
    assert taken == {("a", 0, counts[0]), ("b", 0, counts[1]), ("long", 0, 18)}
