"""Sweeps of processes that stand in for training: kills, points that die, halving, devices, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.made_sources import make_sources
from jaxpt.errors import JaxptError
from jaxpt.sweeps.halving import rungs
from jaxpt.sweeps.over import combinations, parse_over
from jaxpt.sweeps.points import make_points
from jaxpt.sweeps.results import read_results
from jaxpt.sweeps.runners import LocalRunner
from jaxpt.sweeps.summary import ranking, write_sweep_page
from jaxpt.sweeps.sweep import PointCost, named, prepare
from tests.sweeps.made import CONFIG, StandIn, plant

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
FACTS = {"recipe": "sweep", "metric": "train/loss", "tokens": STEPS * 512, "keys": ["optimizer.learning_rate"]}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    make_sources(folder / "sources", rows=100)
    (folder / "config.py").write_text(CONFIG)
    return f"{folder / 'config.py'}:{folder / 'sources'}"


def points(config, rates, *more):
    overs = [parse_over(f"optimizer.learning_rate={','.join(map(str, rates))}"), *map(parse_over, more)]
    return make_points(config, [f"--config.stages[0].duration={STEPS} steps"], combinations(overs, "grid"), None, print)


def stand_in(config, workdir, count=3, halving=None):
    made = named(workdir, points(config, [(i + 1) / 1000 for i in range(count)]), FACTS)
    prepare(workdir, made, FACTS)
    levels = rungs(count, STEPS * 512, halving)
    steps = tuple(level.tokens // 512 for level in levels)
    cost = PointCost(
        STEPS, STEPS * 512, 1000.0 * STEPS, steps, tuple(512 * s for s in steps), tuple(1e3 * s for s in steps)
    )
    return StandIn(workdir, made, {p.name: cost for p in made}, levels, "train/loss", lambda line: None)


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_points_run_and_are_ranked(config, tmp_path):
    plant(tmp_path / "s", p000={"loss": 2.0}, p001={"loss": 1.0}, p002={"loss": 3.0})
    sweep = stand_in(config, tmp_path / "s")
    assert sweep.run(LocalRunner())
    results = sweep.newest()
    assert [r.point for r in results] == ["001", "000", "002"]
    assert results[0].loss == pytest.approx(1.0 + 4.0 / STEPS)
    _, rows = ranking(results, FACTS["keys"], "train/loss")
    assert [row[2] for row in rows] == ["0.002", "0.001", "0.003"]
    assert rows[0][-1] < rows[1][-1]  # whose loss falls fastest is first at a common level
    page = write_sweep_page(tmp_path / "s", results, FACTS["keys"], "train/loss")
    assert {p.name for p in page.parent.glob("*.png")} == {"curves.png", "over_key.png"}
    assert read_results(tmp_path / "s/results.jsonl") == sorted(results, key=lambda r: r.point)


def test_a_point_that_dies_leaves_the_others_and_is_tried_again(config, tmp_path):
    plant(tmp_path / "s", p001={"dies_at": 3}, p002={"diverges_at": 4})
    sweep = stand_in(config, tmp_path / "s")
    assert sweep.run(LocalRunner())
    states = {r.point: r.state for r in sweep.newest()}
    assert states == {"000": "finished", "001": "failed", "002": "diverged"}
    assert "planted" in next(r.error for r in sweep.newest() if r.point == "001")
    plant(tmp_path / "s")
    again = stand_in(config, tmp_path / "s")
    assert again.run(LocalRunner())
    assert {r.point: r.state for r in again.newest()} == {"000": "finished", "001": "finished", "002": "diverged"}
    assert [name for name, _, _ in lines(tmp_path / "s/points/starts")] == ["000", "001", "002", "001"]


SCRIPT = """
import sys
from pathlib import Path
from jaxpt.sweeps.runners import LocalRunner
from tests.sweeps.test_sweep import stand_in
stand_in(sys.argv[1], Path(sys.argv[2]), 3).run(LocalRunner(((), ())))
"""


def test_a_sweep_that_is_killed_goes_on_where_its_points_were(config, tmp_path):
    plant(tmp_path / "s", p000={}, p001={"pause": 0.2}, p002={"pause": 0.2})
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, config, str(tmp_path / "s")], env=env)
    until = time.monotonic() + 120
    begun = [tmp_path / f"s/points/{name}/checkpoints/2" for name in ("001", "002")]
    while not all(p.exists() for p in begun) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    reached = [max(int(p.name) for p in b.parent.iterdir()) for b in begun]
    assert all(2 <= r < STEPS for r in reached)  # the points ended with the sweep, in the middle of their way
    before = lines(tmp_path / "s/points/starts")
    sweep = stand_in(config, tmp_path / "s")
    assert sweep.run(LocalRunner())
    assert [r.state for r in sweep.newest()] == ["finished"] * 3
    again = [name for name, _, _ in lines(tmp_path / "s/points/starts")][len(before) :]
    assert again == ["001", "002"]  # the finished one is not done again
    for name in again:  # a step that was saved is not done again
        assert [r["step"] for r in lines(tmp_path / f"s/points/{name}/metrics.jsonl")].count(1) == 1


def test_a_request_to_stop_reaches_the_points_and_begins_no_other(config, tmp_path):
    plant(tmp_path / "s", p000={"pause": 0.2})
    sweep = stand_in(config, tmp_path / "s")
    at = tmp_path / "s/points/000/checkpoints/1"
    assert not sweep.run(LocalRunner(), at.exists)
    assert {r.point: r.state for r in sweep.newest()} == {"000": "stopped"}
    assert sweep.run(LocalRunner())
    assert [r.state for r in sweep.newest()] == ["finished"] * 3


@pytest.mark.parametrize("crossing", [False, True])
def test_halving_picks_by_the_losses_at_each_rung(config, tmp_path, crossing):
    """Point i ends at a loss of i; where curves cross, the best at the end begins worst and is dropped early."""
    tails = {f"p{i:03d}": {"loss": 1.0 + i, "tail": 90.0 if crossing and i == 0 else 4.0} for i in range(4)}
    plant(tmp_path / "s", **tails)
    sweep = stand_in(config, tmp_path / "s", 4, halving=2)
    assert sweep.run(LocalRunner())
    reached = {r.point: (r.rung, r.step) for r in sweep.newest()}
    winner, second = ("001", "002") if crossing else ("000", "001")
    assert reached[winner] == (2, STEPS)
    assert reached[second] == (1, STEPS // 2)
    assert [r.point for r in sweep.newest()][:2] == [winner, second]
    assert sum(r.step for r in sweep.newest()) == 8 + 4 + 2 + 2
    before = len(lines(tmp_path / "s/points/starts"))
    assert stand_in(config, tmp_path / "s", 4, halving=2).run(LocalRunner())
    assert len(lines(tmp_path / "s/points/starts")) == before  # nothing is done again


def test_points_run_side_by_side_each_on_devices_of_its_own(config, tmp_path):
    plant(tmp_path / "s", **{f"p{i:03d}": {"pause": 0.05} for i in range(4)})
    sweep = stand_in(config, tmp_path / "s", 4)
    assert sweep.run(LocalRunner((("0", "1"), ("2", "3"))))
    starts = {name: (seen, at) for name, seen, at in lines(tmp_path / "s/points/starts")}
    ends = dict(lines(tmp_path / "s/points/ends"))
    assert {seen for seen, _ in starts.values()} == {"0,1", "2,3"}
    for one, (seen, at) in starts.items():
        for other, (theirs, then) in starts.items():
            if one != other and seen == theirs:
                assert at > ends[other] or then > ends[one]  # a device has one point at a time
    assert starts["001"][1] < ends["000"]  # and the two groups work at once


def test_a_sweep_may_grow_and_keeps_the_names_of_its_points(config, tmp_path):
    first = named(tmp_path, points(config, [1e-3, 2e-3]), FACTS)
    prepare(tmp_path, first, FACTS)
    more = named(tmp_path, points(config, [4e-3, 2e-3, 0.001]), FACTS)
    assert [p.name for p in more] == ["002", "001", "000"]
    flags = ["--config.stages[0].duration=8 steps", "--config.seed=1"]
    changed = make_points(config, flags, [{"optimizer.learning_rate": "1e-3"}], None, print)
    with pytest.raises(JaxptError, match=r"point 000 \(learning_rate 0.001\) began with config.seed=0, now it is 1"):
        named(tmp_path, changed, FACTS)
    with pytest.raises(JaxptError, match="holds a sweep, not a probe"):
        named(tmp_path, first, {**FACTS, "recipe": "probe"})


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("optimizer.learning_rat=1,2", "config.optimizer.learning_rat is not a key .did you mean 'learning_rate'"),
        ("stages[0].batch_size=8,x", "must be a whole number"),
        ("stages[0].mixture.aa=1,2", "there is no source 'aa'"),
        ("stages[0].batch_size=8,16", "different numbers of tokens, 4,096 to 8,192"),
    ],
)
def test_a_bad_sweep_is_refused_before_any_run(config, over, message):
    with pytest.raises(JaxptError, match=message):
        points(config, [1e-3], over)


def test_a_key_that_changes_nothing_is_refused(config):
    with pytest.raises(JaxptError, match=r"each stage states its own: sweep stages\[0\].learning_rate"):
        make_points(config, ["--config.stages[0].learning_rate=1e-3"],
                    [{"optimizer.learning_rate": "1"}, {"optimizer.learning_rate": "2"}], None, print)  # fmt: skip
