"""The attacks, a few of each kind: nothing silent, no traceback, nothing hangs; and a judge that can say "silent"."""

import random
from pathlib import Path

import pytest

from benchmarks.attack import KINDS
from benchmarks.attack.children import Children, Outcome
from benchmarks.attack.damage import Target, attack, load
from benchmarks.attack.judge import BAD, counts, judge
from benchmarks.attack.room import Room
from benchmarks.attack.victims import make


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack")
    children = Children(Path(__file__).parents[1], folder / "children")
    yield Room(folder / "copies", make(folder / "victims", children, 0), children, random.Random(0), 2)
    children.close()


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("damage", "hostile", "templates", "bombs", "lost_host")]


@pytest.mark.parametrize("kind", ["unreadable", "foreign", "archives", *SLOW])
def test_what_is_attacked_is_noticed_or_harmless(room, kind):
    trials = KINDS[kind](room)
    assert trials
    assert [t for t in trials if t.verdict in BAD] == []


def test_a_file_that_no_digest_covers_is_damaged_silently(room):  # the judge can say so
    weights = Target("foreign weights", "hf", ("*.safetensors",), (load,))
    room.trials, before = 8, room.trials
    verdicts = {t.verdict for t in attack(room, [weights])}
    room.trials = before
    assert "silent" in verdicts


def test_a_child_is_judged_by_code_answer_and_errors():
    def outcome(code=0, answer="a", out="", err="", hung=False):
        return Outcome(code, out, err, answer, hung, 0.0)

    assert judge(outcome(), "a") == "harmless"
    assert judge(outcome(answer="b"), "a") == "silent"
    assert judge(outcome(out="checkpoint 8 is damaged (…), trying the one before"), "a") == "noticed"
    assert judge(outcome(answer="b", out="checkpoint 8 is damaged"), "a") == "silent"  # said, but not the same result
    assert judge(outcome(1, None, err="jaxpt train: x is broken; do y"), "a") == "noticed"
    assert judge(outcome(1, None), "a") == "silent"  # a refusal without a word
    assert judge(outcome(70, None, err="Traceback (most recent call last):\n  …"), "a") == "traceback"
    assert judge(outcome(-11, None), "a") == "traceback"
    assert judge(outcome(-9, None, hung=True), "a") == "hang"


def test_every_trial_is_counted_once_in_its_row(room):
    rows = counts(KINDS["archives"](room))
    assert rows[-1][0] == "all"
    assert rows[-1][1] == sum(row[1] for row in rows[:-1])
    assert all(row[1] == sum(row[2:]) for row in rows)
