"""The budget against an oracle that walks every row; sources that end pass on their share, after any restart."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpt.data import Loader, budget
from jaxpt.data.ledger import Ledger
from jaxpt.data.log import ScheduleLog
from jaxpt.errors import JaxptError
from tests.data.made import delivered, source
from tests.data.test_loader import STAGES, plan, walk

ROWS = {"a": 40, "b": 30, "c": 900}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {name: source(folder / name, n, tag=i) for i, (name, n) in enumerate(ROWS.items())}


def lines(loader):
    return budget.budget(loader.log, loader.orders, loader.limits, loader.steps)


def total(loader, stages):
    """Rows of each source in all delivered batches, counted by their documents; None where one runs out."""
    try:
        tags = [tag for _, batch in walk(loader, stages) for tag, _ in delivered(batch)]
    except JaxptError:
        return None
    return np.bincount(tags, minlength=3).tolist()


def expected(stages, may_end):
    """The oracle: batch by batch, shares of sources that could not fill one batch more go to the others."""
    taken, gone, out = np.zeros(3), set(), []
    for i, stage in enumerate(stages):
        for step in range(stage.steps):
            weights = np.array([0.0 if n in gone else w for n, w in stage.weights.items()])
            out.append((i, stage.first_step + step, weights / weights.sum()))
            taken += stage.batch_size * weights / weights.sum()
            gone |= {n for n, t in zip(ROWS, taken) if n in may_end and t >= ROWS[n]}
    return out, gone


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STAGES)
def test_rows_needed_are_those_that_are_delivered(sources, parts):
    stages = plan(parts)
    enough = Loader(sources, stages, repeat={"a": 20, "b": 20})
    got = total(enough, stages)
    once = Loader(sources, stages)
    message = lines(once)
    for line, n in zip(message, got):
        assert abs(line.needed - n) <= len(stages)
        assert line.there == ROWS[line.name]
    assert (total(Loader(sources, stages), stages) is None) == any(line.short for line in message)


@pytest.mark.parametrize("steps", [38, 39, 40, 41, 42])
def test_whether_the_very_last_row_suffices_is_exact(sources, steps):
    stages = plan([(steps, 3, (1, 1, 1))])
    short = any(line.short for line in lines(Loader(sources, stages, repeat={"b": 2})))
    assert short == (total(Loader(sources, stages, repeat={"b": 2}), stages) is None)
    assert short == (steps > 40)


def test_a_source_too_small_is_said_with_both_numbers_and_the_way_out(sources):
    stages = plan([(20, 5, (1, 0, 1)), (20, 5, (0, 0, 1))])
    with pytest.raises(JaxptError) as error:
        budget.check(lines(Loader(sources, stages)))
    assert "config.sources.a has 40 rows for this run, the plan needs 50; set --config.sources.a.repeat=2" in str(
        error.value
    )
    assert str(error.value).endswith("lower its weight in stages[0]")
    assert "\n" not in str(error.value)
    budget.check(lines(Loader(sources, stages, repeat={"a": 2})))


def test_rows_used_by_earlier_runs_count(sources):
    stages = plan([(5, 5, (1, 0, 0))])
    used = Ledger.from_json(Loader(sources, stages).to_save(5)["ledger"])
    line = lines(Loader(sources, stages, used=used))[0]
    assert (line.used, line.there, line.needed, line.short) == (25, 15, 25, True)
    with pytest.raises(JaxptError, match=r"sources\.a\.repeat=2"):
        budget.check([line])


def test_the_table_lines_up_and_names_what_happens(sources):
    stages = plan([(40, 5, (1, 1, 2))])
    shown = budget.show(lines(Loader(sources, stages, when_exhausted={"b": "renormalise"}))).splitlines()
    assert "TOO FEW" in next(s for s in shown if s.startswith("a "))
    assert "ends near step 24, its share goes to the others" in next(s for s in shown if s.startswith("b "))
    column = shown[0].index("needed") + len("needed")
    assert all(s[column - 1].isdigit() and s[column] == " " for s in shown[2:])


def test_a_source_that_ends_passes_its_share_on_from_the_first_batch_it_cannot_fill(sources):
    stages = plan([(40, 8, (1, 1, 6))])
    loader = Loader(sources, stages, when_exhausted={"a": "renormalise", "b": "renormalise"})
    counts = np.array([np.bincount([t for t, _ in delivered(b)], minlength=3) for _, b in walk(loader, stages)])
    assert (counts[:30] == (1, 1, 6)).all()
    assert (counts[30:, 1] == 0).all()  # b's thirty rows lasted thirty batches
    assert np.abs(counts[30:39, 0].cumsum() - 8 / 7 * np.arange(1, 10)).max() < 1
    assert (counts[39] == (0, 0, 8)).all()
    loader.shares(40)
    assert [a.step for a in loader.log.anchors] == [0, 30, 39]
    documents = [d for _, b in walk(loader, stages) for d in delivered(b)]
    assert len(set(documents)) == len(documents)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STAGES, st.lists(st.integers(0, 23), max_size=3))
def test_ends_fall_where_the_oracle_says_and_survive_restarts(sources, parts, stops):
    parts = [(steps * 3, size, weights) for steps, size, weights in parts]
    stages = plan(parts)
    may_end = {"a": "renormalise", "b": "renormalise"}
    whole = [delivered(b) for _, b in walk(Loader(sources, stages, when_exhausted=may_end), stages)]
    documents = [d for batch in whole for d in batch]
    assert len(set(documents)) == len(documents)
    want, gone = expected(stages, may_end)
    tags = np.array([np.bincount([t for t, _ in b], minlength=3) for b in whole])
    sizes = np.array([stages[i].batch_size for i, _, _ in want])
    ideal = np.cumsum(np.array([w for *_, w in want]) * sizes[:, None], axis=0)
    slack = 2 + len(stages) + 2 * max(sizes) * len(gone)
    assert np.abs(tags.cumsum(axis=0) - ideal).max() <= slack
    message = lines(Loader(sources, stages, when_exhausted=may_end))
    assert all(abs(line.needed - n) <= slack for line, n in zip(message, tags.sum(axis=0)))
    saved, stop = None, 0
    for stop in sorted(min(s, len(whole)) for s in stops):
        log = ScheduleLog.from_json(json.loads(json.dumps(saved["schedule_log"]))) if saved else None
        saved = Loader(sources, stages, log=log, when_exhausted=may_end).to_save(stop)
    log = ScheduleLog.from_json(json.loads(json.dumps(saved["schedule_log"]))) if saved else None
    again = Loader(sources, stages, log=log, when_exhausted=may_end)
    assert [delivered(again.batch(s)) for s in range(stop, len(whole))] == whole[stop:]


def test_all_sources_ending_is_an_error(sources):
    stages = plan([(20, 8, (1, 1, 0))])
    loader = Loader(sources, stages, when_exhausted={"a": "renormalise", "b": "renormalise"})
    with pytest.raises(JaxptError, match="no other source is left"):
        lines(loader)
    with pytest.raises(JaxptError, match="no other source is left"):
        loader.batch(19)


def test_a_source_ends_under_weights_that_were_changed_on_the_way(sources):
    stages = plan([(30, 8, (1, 1, 6)), (10, 8, (1, 1, 2))])
    may_end = {"a": "renormalise", "b": "renormalise"}
    loader = Loader(sources, stages, when_exhausted=may_end)
    loader.change(4, {"a": 0.5, "c": 0.5})
    batches = [delivered(loader.batch(s)) for s in range(40)]
    documents = [d for b in batches for d in b]
    assert len(set(documents)) == len(documents)
    counts = np.array([np.bincount([t for t, _ in b], minlength=3) for b in batches])
    assert (counts[4:13, 0] == 4).all()  # forty rows of a: four batches of one, nine of four
    assert (counts[13:30] == (0, 0, 8)).all()
    assert (counts[30:, 0] == 0).all()
    assert counts[30:, 1].sum() == 26  # what b has left when the next stage begins
    again = Loader(
        sources, stages, when_exhausted=may_end, log=ScheduleLog.from_json(loader.to_save(20)["schedule_log"])
    )
    assert [delivered(again.batch(s)) for s in range(20, 40)] == batches[20:]
