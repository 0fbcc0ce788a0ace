"""Rows delivered before and after a restart, counted one by one: none comes twice, and the ledger says what came."""

import collections
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpt.config.schema import build
from jaxpt.data import PackedSource
from jaxpt.data.ledger import Ledger
from jaxpt.data.order import SourceOrder
from jaxpt.data.permutation import Permutation
from jaxpt.errors import JaxptError
from jaxpt.training import history
from jaxpt.training.config import RunConfig
from jaxpt.training.feed import make_feed
from jaxpt.training.run_plan import continued, make_plan
from tests.data.made import delivered, source
from tests.training.run_made import CONFIG

MODEL = {**CONFIG["model"], "vocab_size": 512}
ROWS = {"a": 120, "b": 160, "c": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sources a, b, c of documents of their own, and `again`: the documents of a, packed anew."""
    folder = tmp_path_factory.mktemp("rows")
    for i, (name, rows) in enumerate(ROWS.items()):
        source(folder / name, rows, tag=i, vocab=512)
    source(folder / "again", ROWS["a"], tag=0, seed=9, vocab=512)
    source(folder / "long", ROWS["a"], length=16, tag=0, seed=9, vocab=512)
    return folder


def config(folder, sources, *stages, **more):
    """`sources`: name -> options (`path` is the name if not given); a stage is (steps, batch size, mixture)."""
    values = {**CONFIG, "model": MODEL, **more}
    values["sources"] = {n: {"path": str(folder / n), **o} for n, o in sources.items()}
    values["stages"] = [
        {"duration": f"{n} steps", "batch_size": b, "sequence_length": 8, "mixture": m} for n, b, m in stages
    ]
    return build(RunConfig, values)


class Course:
    """A run that is stopped and started again, and what it delivered."""

    def __init__(self, used=()):
        self.used, self.saved, self.rows, self.steps = used, None, [], []

    def go(self, config, stop=None, reweighted=()):
        """Goes on under `config` up to step `stop` (None: the end) and saves; `reweighted`: {step: weights}."""
        past = history.read_legs(self.saved, config.stages) if self.saved else ()
        opened = {n: PackedSource.open(s.path) for n, s in config.sources.items()}
        plan = make_plan(config, opened, past=past)
        plan = continued(plan, self.saved) if self.saved else plan
        step = self.saved["step"] if self.saved else 0
        feed = make_feed(plan, self.saved, self.used)
        stop = max(step, plan.steps if stop is None else min(stop, plan.steps))
        batches = feed.iterate(step)
        names = list(feed.loader.sources)
        while step < stop:
            number, batch = next(batches)
            assert number == step
            self.rows += [(names[i], *d) for i, d in zip(batch["source_id"], delivered(batch))]
            step += 1
            if step in reweighted:
                feed.change(step, reweighted[step])
                batches = feed.iterate(step)
        self.saved = json.loads(json.dumps({"step": step, **plan.to_save(step), **feed.to_save(step)}))
        self.sources = feed.loader.sources
        return self

    def check(self, repeat=1):
        """No row more than `repeat` times, and the ledger holds exactly the rows delivered."""
        counts = collections.Counter(self.rows)
        assert max(counts.values(), default=0) <= repeat, counts.most_common(1)
        assert counts == ledger_rows(self.saved, self.sources, self.used)
        assert self.saved["tokens"] == len(self.rows) * 8

    def documents(self, name):
        return {d for n, *d in map(tuple, self.rows) for d in [tuple(d)] if n == name}


def ledger_rows(saved, sources, used=()):
    """The documents of the rows in a checkpoint's ledger that are not in that of the run before, with their counts."""
    out, before = collections.Counter(), Ledger.from_json(used)
    by_print = {s.fingerprint: (n, s) for n, s in sources.items()}
    for entries, sign in ((Ledger.from_json(saved["ledger"]).entries, 1), (before.entries, -1)):
        for e in entries:
            if e.fingerprint not in by_print:
                continue
            name, opened = by_print[e.fingerprint]
            for row in Permutation(opened.rows, f"{e.key}:{e.epoch}")(np.arange(e.start, e.stop)):
                (document,) = opened.row_documents(int(row))
                tag, number = (int.from_bytes(document[i : i + 8], "little") for i in (0, 8))
                out[name, tag, number] += sign
    return +out


BOTH = {"a": 1.0, "b": 1.0}


def test_an_unchanged_restart_is_the_run_that_never_stopped(folder):
    whole = config(folder, {"a": {}, "b": {}}, (10, 8, BOTH), (5, 4, {"b": 1.0}))
    one, two = Course().go(whole), Course()
    for stop in (3, 10, 12, None):
        two.go(whole, stop)
        two.check()
    assert two.rows == one.rows
    assert two.saved == one.saved or two.saved["schedule_log"] != one.saved["schedule_log"]  # anchors of the restarts
    assert {k: v for k, v in two.saved.items() if k != "schedule_log"} == {
        k: v for k, v in one.saved.items() if k != "schedule_log"
    }


@pytest.mark.parametrize(
    ("sources", "more", "message"),
    [
        (
            {"a": {"order_seed": 5}, "b": {}},
            {},
            r"config\.sources\.a\.order_seed was 0; the 20 rows .* take that value",
        ),
        (
            {"a": {"repeat": 1}, "b": {}},
            {"deep": True},
            r"config\.sources\.a\.repeat is 1, rows were taken 2 times; the .* set it to 2",
        ),
        ({"a": {}}, {}, r"config\.sources\.b is missing, and this run has used it; keep it, with a weight of 0"),
        ({"a": {}, "x": {"path": "b"}}, {}, r"config\.sources\.b is missing, x holds its rows, .*its name again"),
        ({"a": {}, "b": {"path": "again"}}, {}, r"config\.sources\.b: .* is not the source this run began with"),
    ],
)
def test_a_change_that_would_use_rows_twice_is_refused_with_the_way_out(folder, sources, more, message):
    deep = more.get("deep")
    first = config(folder, {"a": {"repeat": 2 if deep else 1}, "b": {}}, (40, 4, {"a": 1.0} if deep else BOTH))
    course = Course().go(first, 35 if deep else 10)
    before = json.dumps(course.saved)
    sources = {n: {**o, **({"path": str(folder / o["path"])} if "path" in o else {})} for n, o in sources.items()}
    mixture = dict.fromkeys(sources, 1.0)
    with pytest.raises(JaxptError, match=message) as error:
        course.go(config(folder, sources, (40, 4, mixture)))
    assert "\n" not in str(error.value)
    assert "init_from set to this one" in str(error.value)
    assert json.dumps(course.saved) == before
    course.go(first).check(2 if deep else 1)  # with the old value it goes on


def test_what_is_refused_would_have_used_rows_twice(folder, monkeypatch):  # the refusal has its reason
    monkeypatch.setattr("jaxpt.data.resume.check_rows", lambda *args: None)
    course = Course().go(config(folder, {"a": {}, "b": {}}, (40, 4, BOTH)), 10)
    course.go(config(folder, {"a": {"order_seed": 5}, "b": {}}, (40, 4, BOTH)))
    with pytest.raises(AssertionError):
        course.check()


def test_an_order_seed_may_change_while_nothing_was_taken(folder):
    course = Course().go(config(folder, {"a": {}, "b": {}, "c": {}}, (20, 4, BOTH)), 10)
    course.go(config(folder, {"a": {}, "b": {}, "c": {"order_seed": 3}}, (20, 4, {"c": 1.0})), 15).check()
    course.go(config(folder, {"a": {}, "b": {}, "c": {"order_seed": 3}}, (20, 4, {"c": 1.0}))).check()


def test_more_epochs_may_be_allowed_on_the_way(folder):
    course = Course().go(config(folder, {"a": {}}, (10, 10, {"a": 1.0})), 10)
    course.go(config(folder, {"a": {"repeat": 3}}, (30, 10, {"a": 1.0}))).check(3)
    assert set(collections.Counter(course.rows).values()) == {2, 3}


@pytest.fixture(scope="module")
def ledger(folder):
    """Of a run over half of a."""
    return Course().go(config(folder, {"a": {}}, (15, 4, {"a": 1.0}))).saved["ledger"]


@pytest.mark.parametrize("leave_out", [True, False])
def test_leave_out_seen_stays_as_it_was_where_rows_would_come_twice(folder, ledger, leave_out):
    sources, stage = {"again": {}, "b": {}}, (20, 4, {"again": 1.0, "b": 1.0})
    course = Course(ledger).go(config(folder, sources, stage, leave_out_seen=leave_out), 10)
    with pytest.raises(JaxptError, match=f"config.leave_out_seen was {leave_out}; the 20 rows .* take that value back"):
        course.go(config(folder, sources, stage, leave_out_seen=not leave_out))
    course.go(config(folder, sources, stage, leave_out_seen=leave_out)).check()


@pytest.mark.parametrize("leave_out", [True, False])
def test_leave_out_seen_may_change_where_it_leaves_out_nothing(folder, leave_out):
    course = Course().go(config(folder, {"a": {}, "b": {}}, (20, 4, BOTH), leave_out_seen=leave_out), 10)
    course.go(config(folder, {"a": {}, "b": {}}, (20, 4, BOTH), leave_out_seen=not leave_out)).check()


@pytest.mark.parametrize("leave_out", [True, False])
def test_a_new_run_in_another_order_takes_no_row_of_the_run_before(folder, ledger, leave_out):
    before = set(ledger_rows({"ledger": ledger}, {"a": PackedSource.open(folder / "a")}))
    run = config(folder, {"a": {"order_seed": 7}, "b": {}}, (14, 4, {"a": 1.0}), leave_out_seen=leave_out)
    course = Course(ledger).go(run, 5).go(run)
    course.check()
    assert len(before) == 60
    assert not before & set(course.rows)


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_orders_of_several_seeds_together_take_each_row_as_often_as_it_may_be(folder, ledger, repeat):
    opened = PackedSource.open(folder / "a")
    used = Ledger.from_json(ledger)
    for seed, count in ((7, 31), (8, 11), (0, 13), (7, 2)):
        order = SourceOrder(opened, order_seed=seed, repeat=repeat, used=used)
        whole = used.union(Ledger(order.used(order.rows)))
        assert set(uses(opened, whole)) == {repeat}  # all that is left may be taken, and no more
        used = used.union(Ledger(order.used(count)))


def uses(opened, ledger):
    """How often each row was taken."""
    out = np.zeros(opened.rows, int)
    for e in ledger.entries:
        out[Permutation(opened.rows, f"{e.key}:{e.epoch}")(np.arange(e.start, e.stop))] += 1
    return out


def test_a_source_added_on_the_way_gives_rows_from_there_on(folder):
    course = Course().go(config(folder, {"a": {}, "b": {}}, (20, 4, BOTH)), 10)
    more = config(folder, {"c": {}, "b": {}, "a": {}}, (20, 4, {"c": 2.0, "a": 1.0, "b": 1.0}))  # in another order
    course.go(more, 15).check()
    course.go(more).check()
    assert list(course.sources) == ["a", "b", "c"]
    assert len(course.documents("c")) == 20


@pytest.mark.parametrize("leave_out", [True, False])
def test_a_source_added_on_the_way_leaves_out_what_the_run_has_seen_then_and_later(folder, leave_out):
    course = Course().go(config(folder, {"a": {}, "b": {}}, (30, 4, BOTH), leave_out_seen=leave_out), 20)
    before = course.documents("a")
    more = {"again": 1.0, "b": 1.0}
    for stop in (25, 30, 40):  # the same rows are left out however often it is started again
        sources = {"a": {}, "b": {}, "again": {}} | ({"c": {}} if stop == 40 else {})
        course.go(config(folder, sources, (40, 4, more), leave_out_seen=leave_out), stop)
        course.check()
    assert bool(course.documents("again") & before) != leave_out
    flipped = config(folder, {"a": {}, "b": {}, "again": {}, "c": {}}, (50, 4, more), leave_out_seen=not leave_out)
    with pytest.raises(JaxptError, match="leave_out_seen was"):
        course.go(flipped)
    straight = Course(course.saved["joined"][0]["ledger"])  # a new run after the same rows takes the same ones
    straight.go(config(folder, {"b": {}, "again": {}}, (20, 4, more), leave_out_seen=leave_out))
    assert [r for r in straight.rows if r[0] == "again"] == [r for r in course.rows if r[0] == "again"]


def test_a_stage_may_go_on_with_longer_rows_of_the_same_text(folder):
    first = config(folder, {"a": {}, "b": {}}, (20, 4, BOTH))
    course = Course().go(first, 10)
    before = course.documents("a")
    longer = config(folder, {"a": {}, "b": {}, "long": {}}, (20, 2, {"long": 1.0}))
    longer = dataclasses.replace(longer, stages=(dataclasses.replace(longer.stages[0], sequence_length=16),))
    course.go(longer, 15).go(longer)
    assert course.saved["tokens"] == 10 * 4 * 8 + 10 * 2 * 16
    assert collections.Counter(course.rows) == ledger_rows(course.saved, course.sources)
    assert len(course.documents("long")) == 20
    assert not course.documents("long") & before


def test_a_source_that_was_never_used_may_be_removed_and_another_take_its_place(folder):
    course = Course().go(config(folder, {"a": {}, "b": {}, "c": {}}, (20, 4, BOTH)), 10)
    course.go(config(folder, {"a": {}, "b": {}}, (20, 4, BOTH)), 12).check()
    course.go(config(folder, {"a": {}, "b": {}, "c": {"path": str(folder / "again")}}, (20, 4, {"c": 1.0}))).check()


def test_a_source_may_be_retired_by_a_weight_of_nothing(folder):
    course = Course().go(config(folder, {"a": {}, "b": {}}, (20, 4, BOTH)), 10)
    course.go(config(folder, {"a": {}, "b": {}}, (20, 4, {"a": 0.0, "b": 1.0}))).check()
    assert {e["name"] for e in course.saved["ledger"]} == {"a", "b"}


def test_weights_that_a_policy_moved_outlast_a_change_of_the_batch_size(folder):
    course = Course().go(config(folder, {"a": {}, "b": {}}, (20, 4, BOTH)), 10, {5: {"a": 0.0, "b": 1.0}})
    course.go(config(folder, {"a": {}, "b": {}}, (20, 8, BOTH)), 13)
    assert all(name == "b" for name, *_ in course.rows[20:])
    course.go(config(folder, {"a": {}, "b": {}}, (20, 8, {"a": 1.0}))).check()  # other weights in the config hold
    assert all(name == "a" for name, *_ in course.rows[-8 * 7 :])


def test_a_stage_that_goes_on_past_its_planned_end_keeps_the_weights_it_had(folder):
    two = (5, 4, {"a": 1.0})
    course = Course().go(config(folder, {"a": {}, "b": {}}, (10, 4, BOTH), two), 10, {5: {"b": 1.0}})
    course.go(config(folder, {"a": {}, "b": {}}, (15, 4, BOTH), two), 15)
    assert all(name == "b" for name, *_ in course.rows[20:])
    course.go(config(folder, {"a": {}, "b": {}}, (15, 4, BOTH), two)).check()
    assert all(name == "a" for name, *_ in course.rows[60:])


def test_files_of_the_run_before_that_changed_change_nothing_or_are_named(folder, ledger, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "a")
    moved = [{**e, "path": str(tmp_path / "a")} for e in ledger]
    run = config(folder, {"again": {}, "b": {}}, (20, 4, {"again": 1.0, "b": 1.0}))
    course = Course(moved).go(run, 10)
    course.used = []  # init_from's ledger is not asked again
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(JaxptError, match=r"cannot be read.*restore it to go on with this run"):
        course.go(run)
    shutil.copytree(folder / "a", tmp_path / "a")
    course.go(run)
    course.used = moved
    course.check()


NEW = ("history", "durations", "learning_rate_next", "joined", "order_seeds", "leave_out_seen", "other_orders")


def test_a_checkpoint_written_before_there_was_a_history_goes_on_as_if_it_had_one(folder, ledger):
    sources, changed = {"a": {"order_seed": 7}, "b": {}}, {"a": 0.4, "b": 0.6}
    stages = [((10, 4, BOTH), (10, 8, {"b": 1.0})), ((10, 4, BOTH), (6, 2, changed))]
    for used in ((), ledger):
        new, old = (Course(used).go(config(folder, sources, *stages[0]), 13) for _ in range(2))
        old.saved = {k: v for k, v in old.saved.items() if k not in NEW}
        for course in (new, old):
            course.go(config(folder, sources, *stages[1]), 14).go(config(folder, sources, *stages[1]))
            course.check()
        assert new.rows == old.rows
        assert new.saved["history"] == old.saved["history"]


def test_an_older_run_that_took_rows_of_another_order_again_goes_on_with_the_rows_it_has(folder, ledger, monkeypatch):
    run = config(folder, {"a": {"order_seed": 7}}, (25, 4, {"a": 1.0}), leave_out_seen=False)
    with monkeypatch.context() as patch:
        patch.setattr("jaxpt.data.order.uses_in_other_orders", lambda *args: None)
        whole = Course(ledger).go(run)
        old = Course(ledger).go(run, 10)
    old.saved = {k: v for k, v in old.saved.items() if k not in NEW}
    old.go(run, 15).go(run)
    assert old.rows == whole.rows


def test_a_digit_of_the_ledger_that_does_not_fit_is_noticed(folder):
    run = config(folder, {"a": {}, "b": {}}, (20, 4, BOTH))
    course = Course().go(run, 10)
    course.saved["ledger"][0]["stop"] -= 1
    with pytest.raises(JaxptError, match="other rows are left out than when the run took its rows"):
        course.go(run)


CHANGE = st.fixed_dictionaries(
    {
        "steps": st.integers(0, 6),
        "batch": st.sampled_from([1, 3, 4, 7]),
        "weights": st.tuples(*[st.sampled_from([0.03, 1 / 3, 0.5, 1.0, 0.2])] * 4),
        "durations": st.tuples(st.integers(1, 12), st.integers(1, 12)),
        "sources": st.sampled_from(["ab", "abc", "abx", "xcba", "bac"]),
        "moved": st.dictionaries(st.integers(0, 40), st.sampled_from(["a", "b"]), max_size=2),
        "repeat": st.sampled_from([1, 2]),
        "ends": st.sampled_from(["error", "renormalise"]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGE, min_size=2, max_size=6))
def test_after_any_restarts_no_row_came_twice_and_the_ledger_is_what_was_delivered(folder, changes):
    course, kept, allowed = Course(), "", 1
    for change in changes:
        have = "".join(dict.fromkeys([*change["sources"], *kept]))
        repeat = max(allowed, change["repeat"])
        more = {"repeat": repeat, "when_exhausted": change["ends"]}
        sources = {n: {**more, "path": str(folder / ("again" if n == "x" else n))} for n in have}
        weights = dict(zip("abcx", change["weights"]))
        mixture = {n: weights[n] for n in have}
        stages = [(n, change["batch"], mixture) for n in change["durations"]]
        stop = (course.saved["step"] if course.saved else 0) + change["steps"]
        seen = set(course.rows)
        new = [n for n in have if course.saved and n not in course.saved["fingerprints"]]
        moved = {step: {name: 1.0, "b": 0.5} for step, name in change["moved"].items()}
        try:
            course.go(config(folder, sources, *stages), stop, moved)
        except JaxptError as error:
            assert re.search("rows for this run, the plan needs|no other source is left", str(error))  # noqa: PT017
            continue
        kept, allowed = have, repeat
        course.check(repeat)
        if "x" in new:
            documents = {(tag, number) for _, tag, number in seen}
            assert not documents & course.documents("x")


RUN = st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 14), st.integers(0, 14), st.sampled_from([3, 4, 8]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 2), st.lists(RUN, min_size=2, max_size=4))
def test_runs_that_go_on_from_each_other_in_any_order_use_no_row_too_often(folder, repeat, runs):
    used, counts = [], collections.Counter()
    for seed, leave_out, steps, stop, batch in runs:
        sources = {"a": {"order_seed": seed, "repeat": repeat}}
        run = config(folder, sources, (steps, batch, {"a": 1.0}), leave_out_seen=leave_out)
        try:
            course = Course(used).go(run, stop).go(run)
        except JaxptError as error:
            assert "rows for this run, the plan needs" in str(error)  # noqa: PT017
            continue
        course.check(repeat)
        counts += collections.Counter(course.rows)
        used = course.saved["ledger"]
    assert max(counts.values(), default=0) <= repeat


def test_the_count_notices_a_log_that_forgets_a_row(folder):  # the proof above can fail
    run = config(folder, {"a": {}, "b": {}}, (20, 4, BOTH))
    course = Course().go(run, 10)
    anchor = course.saved["schedule_log"]["anchors"][-1]
    anchor["consumed"] = [anchor["consumed"][0] - 1, anchor["consumed"][1] + 1]
    with pytest.raises(JaxptError):
        course.go(run)
