"""metrics.jsonl is cut back to the restored step, and a half-written line is never read."""

import json
import math

import pytest

from jaxpt.errors import JaxptError
from jaxpt.training.metrics import MetricsLog, read
from jaxpt.training.speed import Clock


def written(path, steps):
    metrics = MetricsLog(path, tensorboard=False)
    for step in steps:
        metrics.log(step, {"train/loss": 1.0 / step})
    return path / "metrics.jsonl"


def test_lines_after_the_restored_step_are_cut_and_the_first_is_compared(tmp_path):
    file = written(tmp_path, range(1, 9))
    metrics = MetricsLog(tmp_path, 5, tensorboard=False)
    assert [r["step"] for r in read(file)] == [1, 2, 3, 4, 5]
    assert metrics.replayed(6, {"train/loss": 0.5}) == (0.5, 1 / 6)
    assert metrics.replayed(7, {"train/loss": 0.5}) is None  # only the first is compared


def test_a_half_written_last_line_is_left_out_and_repaired(tmp_path):
    file = written(tmp_path, range(1, 4))
    with open(file, "a") as f:
        f.write('{"step": 4, "train/lo')
    assert [r["step"] for r in read(file)] == [1, 2, 3]
    MetricsLog(tmp_path, 3, tensorboard=False).log(4, {"train/loss": 0.1})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_broken_line_in_the_middle_is_an_error_naming_the_line(tmp_path):
    file = written(tmp_path, range(1, 4))
    file.write_text(file.read_text().replace('{"step": 2', '{"step" 2'))
    with pytest.raises(JaxptError, match="line 2 is not JSON"):
        read(file)


def strict(path):
    """The records by a parser that takes no bare NaN."""

    def refuse(word):
        raise AssertionError(f"bare {word}")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_values_that_are_not_finite_are_null_with_a_note_and_floats_for_readers(tmp_path):
    metrics = MetricsLog(tmp_path, tensorboard=False)
    metrics.log(1, {"train/loss": math.nan, "train/grad_norm": math.inf, "train/z_loss": -math.inf, "stage": "NaN"})
    metrics.event("replayed", 1, loss=math.nan, before=2.0)
    (record,) = strict(metrics.path)
    assert record["train/loss"] is record["train/grad_norm"] is record["train/z_loss"] is None
    assert record["not_finite"] == {"train/loss": "nan", "train/grad_norm": "inf", "train/z_loss": "-inf"}
    assert strict(tmp_path / "events.jsonl")[0]["loss"] is None
    (back,) = read(metrics.path)
    assert repr(back["train/loss"]) == "nan"
    assert (back["train/grad_norm"], back["train/z_loss"], back["stage"]) == (math.inf, -math.inf, "NaN")
    assert "not_finite" not in back
    with pytest.raises(ValueError, match="JSON compliant"):  # a number in a place where none is expected: noticed here
        metrics.log(2, {"data": {"odd": math.nan}})


OLD = '{"step": 1, "train/loss": 2.5}\n{"step": 2, "train/loss": NaN, "train/grad_norm": -Infinity}\n'


def test_a_file_of_an_earlier_version_with_bare_nan_is_read_and_made_strict(tmp_path):
    for name in ("metrics.jsonl", "events.jsonl"):
        (tmp_path / name).write_text(OLD)
    with pytest.raises(AssertionError, match="bare NaN"):  # the proof can fail
        strict(tmp_path / "metrics.jsonl")
    before = read(tmp_path / "metrics.jsonl")
    assert math.isnan(before[1]["train/loss"])
    MetricsLog(tmp_path, 2, tensorboard=False)
    for name in ("metrics.jsonl", "events.jsonl"):
        strict(tmp_path / name)
        assert repr(read(tmp_path / name)) == repr(before)
    assert not (tmp_path / "metrics.cut.jsonl").exists()


def test_a_replayed_nan_is_compared_as_it_was(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(OLD)
    now, then = MetricsLog(tmp_path, 1, tensorboard=False).replayed(2, {"train/loss": math.nan})
    assert repr(now) == repr(then) == "nan"
    assert strict(tmp_path / "metrics.cut.jsonl")[0]["not_finite"]["train/loss"] == "nan"


def test_what_is_cut_is_kept_beside_every_time(tmp_path):
    file = written(tmp_path, range(1, 9))
    text = file.read_text().splitlines(keepends=True)
    MetricsLog(tmp_path, 6, tensorboard=False)
    MetricsLog(tmp_path, 5, tensorboard=False)
    assert (tmp_path / "metrics.cut.jsonl").read_text() == "".join(text[6:8] + text[5:6])
    assert file.read_text() == "".join(text[:5])


@pytest.mark.parametrize("broken", [b'{"stet": 2}', b'{"step": "2"}', b"[2]", b"2", b"null", b'{"step": 2, "\xff": 1}'])
def test_a_line_that_is_no_record_is_an_error_in_one_line(tmp_path, broken):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + broken + b'\n{"step": 3}\n')
    with pytest.raises(JaxptError, match="line 2 is not JSON or not a record"):
        read(tmp_path / "metrics.jsonl")


def test_tensorboard_gets_the_same_numbers(tmp_path):
    metrics = MetricsLog(tmp_path, tensorboard=True)
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
