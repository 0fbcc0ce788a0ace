"""metrics.jsonl is cut back to the restored step, and a half-written line is never read."""

import json

import pytest

from jaxpt.errors import JaxptError
from jaxpt.training.metrics import Metrics, read
from jaxpt.training.speed import Clock


def written(path, steps):
    metrics = Metrics(path, tensorboard=False)
    for step in steps:
        metrics.log(step, {"train/loss": 1.0 / step})
    return path / "metrics.jsonl"


def test_lines_after_the_restored_step_are_cut_and_the_first_is_compared(tmp_path):
    file = written(tmp_path, range(1, 9))
    metrics = Metrics(tmp_path, 5, tensorboard=False)
    assert [r["step"] for r in read(file)] == [1, 2, 3, 4, 5]
    assert metrics.replayed(6, {"train/loss": 0.5}) == (0.5, 1 / 6)
    assert metrics.replayed(7, {"train/loss": 0.5}) is None  # only the first is compared


def test_a_half_written_last_line_is_left_out_and_repaired(tmp_path):
    file = written(tmp_path, range(1, 4))
    with open(file, "a") as f:
        f.write('{"step": 4, "train/lo')
    assert [r["step"] for r in read(file)] == [1, 2, 3]
    Metrics(tmp_path, 3, tensorboard=False).log(4, {"train/loss": 0.1})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_broken_line_in_the_middle_is_an_error_naming_the_line(tmp_path):
    file = written(tmp_path, range(1, 4))
    file.write_text(file.read_text().replace('{"step": 2', '{"step" 2'))
    with pytest.raises(JaxptError, match="line 2 is not JSON"):
        read(file)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    metrics = Metrics(tmp_path, tensorboard=True)
    metrics.log(1, {"train/loss": 2.0, "stage": "main"})
    metrics.close()
    assert b"train/loss" in b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())


def test_pauses_are_left_out_of_the_speed(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 6.0])  # started, pause from 1 to 4, lap at 6
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock(started=next(now))
    with clock.pause():
        pass
    clock.steps = 3
    lap = clock.lap(tokens_per_step=10, flops_per_token=2.0, peak=100.0)
    assert lap == {
        "perf/tokens_per_s": 10.0,
        "perf/mfu": 0.2,
        "perf/step_s": 1.0,
        "perf/data_wait_s": 0.0,
        "perf/warmup": True,
    }
