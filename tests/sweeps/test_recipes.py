"""Probe and mix: which points they run, what they make of the results, and the plan that comes of it."""

import math

import numpy as np
import pytest

from jaxpt.config.file import load
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError
from jaxpt.sweeps.mix import drawn, entries, mix_points, simplex_grid, with_shares
from jaxpt.sweeps.probe import LEADS, KindProbe, best_rates, kinds_of, probe_points, shares, staged
from jaxpt.sweeps.results import PointResult
from jaxpt.training.config import RunConfig

CONFIG = """
def get_config():
    mixture = dict(exams=0.5, math=dict(weight=0.3, sources=dict(easy=1.0, hard=3.0)), code=0.2)
    stage = dict(duration="100 steps", batch_size=4, sequence_length=16, mixture=mixture)
    return dict(
        sources={n: dict(path=n) for n in ("exams", "easy", "hard", "code")},
        stages=[stage],
        model=dict(preset="tiny-1m"),
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "config.py"
    file.write_text(CONFIG)
    return load(RunConfig, str(file))


def result(kind, rate, loss, **more):
    values = {"kind": kind, "learning_rate": rate, **more}
    known = math.isfinite(loss)
    state = "finished" if known else "diverged"
    return PointResult(f"{kind}{rate}", values, 0, state, 1, 64, "m", loss if known else None, 1.0, None, "", [])


def test_a_kind_is_a_source_or_a_group_and_is_probed_alone(config):
    points = probe_points(config, 0, [1e-3, 1e-2, 1e-1], [], 640)
    assert [(p.values["kind"], p.values["learning_rate"]) for p in points] == [
        (kind, rate) for kind in ("code", "exams", "math") for rate in (1e-3, 1e-2, 1e-1)
    ]
    (stage,) = points[6].config.stages
    assert flat_weights(stage.mixture) == {"easy": 0.25, "hard": 0.75}
    assert (stage.learning_rate, stage.steps) == (1e-3, 10)
    assert len(probe_points(config, 0, [1e-3, 1e-2, 1e-1], [2, 4], 640)) == 18


def test_the_best_rate_is_the_parabolas_lowest_point():
    bowl = lambda best: [(rate, 1 + (math.log2(rate / best)) ** 2) for rate in (1e-3, 2e-3, 4e-3, 8e-3)]  # noqa: E731
    results = [result(kind, r, loss) for kind, best in (("a", 1.7e-3), ("b", 3.1e-3)) for r, loss in bowl(best)]
    probes = best_rates(results, 8)
    assert [p.kind for p in probes] == ["b", "a"]  # the highest rate first, whatever the losses
    np.testing.assert_allclose([p.rate for p in probes], [3.1e-3, 1.7e-3], rtol=1e-3)
    assert not any(p.at_edge for p in probes)


def test_a_best_rate_at_the_edge_is_said_and_one_that_diverged_is_none():
    edge = best_rates([result("a", r, r) for r in (1e-3, 2e-3, 4e-3)], 8)[0]
    assert (edge.rate, edge.at_edge) == (1e-3, True)
    wild = best_rates([result("a", 1e-3, 3.0), result("a", 2e-3, 2.0), result("a", 4e-3, math.inf)], 8)[0]
    assert wild.rate == 2e-3
    with pytest.raises(JaxptError, match="of a alone no rate gave a finite loss"):
        best_rates([result("a", r, math.inf) for r in (1e-3, 2e-3, 4e-3)], 8)


def test_of_several_batch_sizes_the_one_of_least_loss_is_taken():
    results = [result("a", r, 2 + r, batch_size=4) for r in (1e-3, 2e-3, 4e-3)]
    results += [result("a", r, 1 + abs(math.log2(r / 2e-3)), batch_size=8) for r in (1e-3, 2e-3, 4e-3)]
    (probe,) = best_rates(results, 16)
    assert (probe.batch_size, probe.rate) == (8, 2e-3)


def test_shares_follow_the_leads_and_each_stage_sums_to_one():
    made = shares(["exams", "math", "code", "general"], LEADS)
    assert made[0] == {"exams": 1.0}
    assert made[1] == {"exams": 0.4, "math": 0.6}
    assert made[2] == {"exams": 0.24, "math": 0.36, "code": 0.4}
    assert made[3] == dict.fromkeys(("exams", "math", "code", "general"), 0.25)
    assert [sum(stage.values()) for stage in made] == pytest.approx([1.0] * 4)


def test_the_plan_goes_from_each_rate_to_the_next_and_at_last_to_zero(config):
    probes = [KindProbe("math", 8e-3, 4, 1.0, False), KindProbe("exams", 2e-3, 8, 1.0, False)]
    probes.append(KindProbe("code", 1e-3, 4, 1.0, False))
    plan = staged(config, 0, probes, 12_800, LEADS, [2, 1, 1])
    assert [s.name for s in plan.stages] == ["math", "exams", "code"]
    assert [s.steps * s.tokens_per_step for s in plan.stages] == [6400, 3200, 3200]
    assert [s.learning_rate for s in plan.stages] == [8e-3, 2e-3, 1e-3]
    assert [s.schedule.end for s in plan.stages] == [0.25, 0.5, 0.0]
    assert [s.batch_size for s in plan.stages] == [4, 8, 4]
    assert flat_weights(plan.stages[1].mixture) == pytest.approx({"easy": 0.1, "hard": 0.3, "exams": 0.6})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, [1e-3, 1e-2], [], 640), "three learning rates"), ((1, [1, 2, 3], [], 640), r"stages\[0\] to stages\[0\]")],
)
def test_a_probe_that_cannot_be_is_refused(config, arguments, message):
    with pytest.raises(JaxptError, match=message):
        probe_points(config, *arguments)


def test_a_mixture_of_one_kind_is_not_probed(config):
    stage = with_shares(config, 0, None, {"exams": 1.0, "math": 0, "code": 0}).stages[0]
    with pytest.raises(JaxptError, match="1 kind of data"):
        kinds_of(stage, "config.stages[0]")


def test_the_grid_holds_all_shares_in_steps_and_each_sums_to_one():
    grid = simplex_grid(3, 4)
    assert len(grid) == len(set(grid)) == math.comb(4 + 2, 2)
    assert all(sum(point) == 1 for point in grid)
    assert simplex_grid(3, 4, least=0.25) == [(0.25, 0.25, 0.5), (0.25, 0.5, 0.25), (0.5, 0.25, 0.25)]
    with pytest.raises(JaxptError, match=r"--least=0.5"):
        simplex_grid(3, 4, least=0.5)


def test_draws_are_even_over_the_simplex_and_follow_from_the_seed():
    many = drawn(3, 1500, 0, least=0.1)
    assert drawn(3, 20, 0, least=0.1) == many[:20]
    assert drawn(3, 20, 1, least=0.1) != many[:20]
    points = np.array(many)
    np.testing.assert_allclose(points.sum(axis=1), 1, atol=1e-9)
    assert points.min() >= 0.1 - 1e-4
    free = (points - 0.1) / 0.7
    np.testing.assert_allclose(free.mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose((free**2).mean(axis=0), 1 / 6, atol=0.02)  # E x² = 2 / (3 · 4) of Dirichlet(1, 1, 1)


def test_shares_are_those_of_all_entries_or_inside_a_group(config):
    assert entries(config, 0, None) == ["code", "exams", "math"]
    assert entries(config, 0, "math") == ["easy", "hard"]
    whole = mix_points(config, 0, None, [(0.4, 0.2, 0.4)], 640)[0]
    assert flat_weights(whole.config.stages[0].mixture) == pytest.approx(
        {"exams": 0.2, "easy": 0.1, "hard": 0.3, "code": 0.4}
    )
    inside = mix_points(config, 0, "math", [(0.5, 0.5)], 640)[0]
    assert flat_weights(inside.config.stages[0].mixture) == pytest.approx(
        {"exams": 0.5, "easy": 0.15, "hard": 0.15, "code": 0.2}
    )
    with pytest.raises(JaxptError, match=r"--group=mat.*did you mean 'math'"):
        entries(config, 0, "mat")
