"""The shipped annealing plans say what the recipe says, and their budget is counted without walking 60 M rows."""

import dataclasses
import time
from pathlib import Path

import pytest

from jaxpt.config.file import load
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError
from jaxpt.models.presets import preset
from jaxpt.training.config import RunConfig
from jaxpt.training.feed import make_feed
from jaxpt.training.history import whole
from jaxpt.training.run_plan import make_plan

CONFIGS = Path(__file__).parents[2] / "configs"
KNOWLEDGE = ("textbooks", "exam_questions", "multiple_choice")
MATH = ("math_synthetic", "math_web")


@dataclasses.dataclass
class Large:
    """A packed source as the plan sees it."""

    name: str
    rows: int
    sequence_length: int = 4096
    vocab_size: int = 151_643
    tokenizer_fingerprint: str = "f" * 64
    path: str = "made"

    @property
    def fingerprint(self):
        return self.name.encode().hex().ljust(64, "0")

    @property
    def tokens(self):
        return self.rows * 4000


@pytest.fixture(scope="module")
def config():
    return load(RunConfig, str(CONFIGS / "anneal_qwen2_5.py"))


def shares(stage):
    weights = flat_weights(stage.mixture)
    return {n: w / sum(weights.values()) for n, w in weights.items()}


def part(stage, names):
    return sum(shares(stage).get(n, 0) for n in names)


def test_four_stages_have_the_recipes_rates_mixtures_and_tokens(config):
    assert [s.learning_rate for s in config.stages] == [3e-4, 8e-5, 5e-5, 3e-5]
    assert [s.steps * s.tokens_per_step / 1e9 for s in config.stages] == pytest.approx([120, 40, 40, 40], rel=1e-3)
    one, two, three, four = config.stages
    assert shares(one) == pytest.approx(
        {"textbooks": 0.3, "exam_questions": 0.5, "multiple_choice": 0.1, "general": 0.1}
    )
    assert (part(two, KNOWLEDGE), part(two, MATH)) == pytest.approx((0.4, 0.6))
    assert (part(three, KNOWLEDGE), part(three, MATH), part(three, ["code"])) == pytest.approx((0.2, 0.4, 0.4))
    want = {"knowledge": 0.15, "math": 0.25, "code": 0.25, "general": 0.1, "function_calling": 0.3}
    names = [KNOWLEDGE, MATH, ["code"], ["general"], ["function_calling"]]
    assert [part(four, n) for n in names] == pytest.approx([w / 1.05 for w in want.values()])


def test_each_stage_ends_at_the_rate_where_the_next_begins(config):
    for stage, after in zip(config.stages, [*config.stages[1:], None]):
        wanted = after.learning_rate if after else 0.0
        assert stage.learning_rate * stage.schedule.end == pytest.approx(wanted)


def test_the_budget_of_240_billion_tokens_is_counted_at_once(config):
    rows = dict.fromkeys(config.sources, 25_000_000)
    plan = make_plan(config, {n: Large(n, r) for n, r in rows.items()}, preset("qwen2.5-7b"))
    lines, began = [], time.process_time()
    make_feed(plan, None, log=lines.append)
    assert time.process_time() - began < 30  # of the processor: not by going through 14 million steps
    needed = next(line for line in lines[0].splitlines() if line.startswith("code"))
    assert int(needed.split()[5].replace(",", "")) == pytest.approx((0.4 + 0.25 / 1.05) * 40e9 / 4096, rel=1e-2)
    rows["exam_questions"] = 10_000_000
    plan = make_plan(config, {n: Large(n, r) for n, r in rows.items()}, preset("qwen2.5-7b"))
    with pytest.raises(JaxptError, match=r"exam_questions has 10,000,000 rows for this run, the plan needs 1[78],"):
        make_feed(plan, None)


def test_the_small_plan_is_the_large_one_in_other_sizes(config):
    small = load(RunConfig, str(CONFIGS / "anneal_small.py"))
    assert [s.mixture for s in small.stages] == [s.mixture for s in config.stages]
    ratios = [a.learning_rate / b.learning_rate for a, b in zip(small.stages, config.stages)]
    assert ratios == pytest.approx([10.0] * 4)
    assert [s.batch_size * 64 for s in small.stages] == [s.batch_size for s in config.stages]
    assert sum(leg.tokens for leg in whole(small.stages)) < 2e6


def test_one_run_holds_general_text_a_long_leg_and_the_four_annealing_stages(config):
    whole = load(RunConfig, str(CONFIGS / "whole_small.py"))
    assert [s.name for s in whole.stages] == ["general", "long", *(s.name for s in config.stages)]
    general, long, first, *rest = whole.stages
    assert long.sequence_length == 4 * general.sequence_length == long.pose.target // 4
    assert long.rope.max_positions == long.pose.target
    assert long.tokens_per_step == general.tokens_per_step
    assert [s.load for s in (first, *rest)] == ["params"] + ["params+optimizer"] * 3
    assert [s.mixture for s in (first, *rest)] == [s.mixture for s in config.stages]
    used = [set(flat_weights(s.mixture)) for s in whole.stages]
    assert not used[0] & used[1]
    assert not (used[0] | used[1]) & set.union(*used[2:])
