"""`jaxpt sweep`, `probe` and `mix` with real training: killed and started again, on Ray, and the plan as it is."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.made_sources import make_sources
from jaxpt import cli
from jaxpt.api import load
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.models import flatten
from jaxpt.training.metrics import read
from tests.sweeps.made import CONFIG

ROOT = Path(__file__).resolve().parents[2]
RATES = "--over=optimizer.learning_rate=1e-3,1e-1"
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    make_sources(folder / "sources", rows=200)
    (folder / "config.py").write_text(CONFIG)
    return f"--config={folder / 'config.py'}:{folder / 'sources'}"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def results(workdir):
    return [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]


def test_a_dry_run_prints_points_and_cost_and_writes_nothing(config, tmp_path, capsys):
    over = ["--over=stages[0].batch_size=4,8", "--tokens=4096", "--halving=2"]
    assert cli.main(["sweep", config, f"--workdir={tmp_path / 's'}", RATES, *over, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^000 +0\.001 +4 +16 +4,096 ", out, re.MULTILINE)
    assert "4 points, at most" in out
    assert "rung 1: 4 points to 1,024 tokens" in out
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over=optimizer.learning_rat=1,2"], "optimizer.learning_rat is not a key (did you mean 'learning_rate'?)"),
        ([RATES, "--metric=eval/bpb/*"], "the config measures no such thing at its end; it has no evaluations"),
        ([RATES, "--tokens=9M tokens"], "rows"),
        ([RATES, "--devices=0,0"], "give each device once"),
        ([RATES, "--tokens=5 steps"], "give tokens"),
        (["--over=sources.a.path=/none,/nowhere"], "point path /none: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_any_run(config, tmp_path, capsys, arguments, message):
    assert cli.main(["sweep", config, f"--workdir={tmp_path / 's'}", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "s").exists()


def test_a_run_that_stops_at_a_step_and_goes_on_is_the_run_in_one_piece(config, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main(["train", config, f"--workdir={whole}"]) == 0
    for _ in range(2):  # the second time nothing is to do
        assert cli.main(["train", config, f"--workdir={parts}", "--until_step=3"]) == 0
        assert finished_steps(parts)[-1] == 3
    assert cli.main(["train", config, f"--workdir={parts}"]) == 0
    one, two = (flatten(load(path).params) for path in (whole, parts))
    for name in one:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]))


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_of_a_point_goes_on(config, tmp_path, capsys):
    s = tmp_path / "s"
    more = [f"--config.sources.{name}.repeat=20" for name in "abc"]
    more += ["--config.stages[0].duration=400 steps", "--config.checkpoint.every=20 steps"]
    command = [sys.executable, "-m", "jaxpt", "sweep", config, f"--workdir={s}", RATES, *more]
    process = subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while max(finished_steps(s / "points/001"), default=0) < 20 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    reached = finished_steps(s / "points/001")[-1]
    assert 20 <= reached < 400
    first = (s / "points/000/events.jsonl").read_bytes()
    assert cli.main(["sweep", config, f"--workdir={s}", RATES, *more]) == 0
    assert (s / "points/000/events.jsonl").read_bytes() == first  # not begun again
    events = [json.loads(line) for line in (s / "points/001/events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "resume"] == [reached]
    assert [r["state"] for r in results(s)] == ["finished", "finished"]
    assert "tokens to" in capsys.readouterr().out
    assert (s / "report/curves.png").stat().st_size > 5000


@pytest.mark.slow
def test_halving_goes_on_with_the_same_run(config, tmp_path):
    s = tmp_path / "s"
    assert (
        cli.main(["sweep", config, f"--workdir={s}", RATES, "--halving=2", "--config.stages[0].duration=8 steps"]) == 0
    )
    assert [(r["point"], r["rung"], r["step"]) for r in results(s)] == [("000", 0, 4), ("001", 0, 4), ("001", 1, 8)]
    steps = [r["step"] for r in read(s / "points/001/metrics.jsonl")]
    assert steps == list(range(1, 9))


@pytest.mark.slow
def test_the_plan_of_a_probe_is_trained_as_it_is(config, tmp_path, capsys):
    p = tmp_path / "p"
    flags = ["--rates=1e-2,1e-1,1", "--tokens=2048", "--plan_tokens=6144", "--config.stages[0].mixture.c=0"]
    assert cli.main(["probe", config, f"--workdir={p}", *flags]) == 0
    plan = json.loads((p / "plan.json").read_text())
    rates = [stage["learning_rate"] for stage in plan["stages"]]
    assert rates == sorted(rates, reverse=True)
    assert cli.main(["train", f"--config={p / 'plan.json'}", f"--workdir={tmp_path / 'run'}"]) == 0
    assert [r["step"] for r in read(tmp_path / "run/metrics.jsonl")][-1] == 12
    flags[2] = "--plan_tokens=9000000"  # more than there is: no plan that would use a row twice
    (p / "plan.json").unlink()
    assert cli.main(["probe", config, f"--workdir={p}", *flags]) == 1
    assert "--plan_tokens makes it shorter" in capsys.readouterr().err
    assert not (p / "plan.json").exists()


RAY = """
import sys
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
from jaxpt import cli
assert cli.main(["sweep", *sys.argv[1:], f"--ray={cluster.address}", "--resources=CPU=4"]) == 1
assert cli.main(["sweep", *sys.argv[1:], f"--ray={cluster.address}"]) == 1
print("a cluster did it")
"""


@pytest.mark.slow
def test_points_run_on_a_ray_cluster_and_one_that_dies_leaves_the_others(config, tmp_path):
    pytest.importorskip("ray", reason="--ray is the extra [ray]")
    s = tmp_path / "s"
    waits = {"RAY_raylet_start_wait_time_s": "300", "RAY_gcs_server_request_timeout_seconds": "300"}
    env = {**ENV, **waits, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    heads = "--over=optimizer.learning_rate=1e-3,1e-1,1e30"
    call = [sys.executable, "-c", RAY, config, f"--workdir={s}", heads, "--config.optimizer.clip_norm=None"]
    (s / "points").mkdir(parents=True)
    (s / "points/000").write_text("a file where the run of this point should lie")
    done = subprocess.run(call, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=500, check=False)
    assert "a cluster did it" in done.stdout, done.stderr[-3000:]
    assert "no node of the Ray cluster has that; the most of each is CPU=1" in done.stderr
    states = {r["point"]: r["state"] for r in results(s)}
    assert states == {"000": "failed", "001": "finished", "002": "diverged"}
