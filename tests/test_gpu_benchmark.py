"""The benchmark on a GPU, dry: a part at tiny shapes on a CPU, and the table of a profile."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections import fp8, step
from benchmarks.gpu.sizes import TINY, documents, llama, positions, visible_pairs
from benchmarks.gpu.trace import device_events, kind_of, summary


@pytest.mark.slow
def test_the_step_is_measured_at_tiny_shapes_and_each_row_is_kept(tmp_path):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.gpu", "first", "--tiny", "--only=step:400", "--seconds=400"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run([*command, f"--out={out}"], check=True, env=environment, timeout=600)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    steps = [row for row in rows if "tokens_per_s" in row]
    assert len(steps) == 2
    assert all(row["tokens_per_s"] > 0 and row["jax"] and row["card"] == "cpu" for row in steps)
    assert not [row for row in rows if "failed" in row]


def test_products_in_8_bits_are_compared_and_measured_and_then_the_step(monkeypatch):
    rows, kept = [], Rows(None, "fp8", deadline=1e12)
    kept.add = lambda name, **values: rows.append({"name": name, **values})
    monkeypatch.setattr(step, "Model", lambda config: config)
    monkeypatch.setattr(step, "run", lambda model, sizes, a_try: {"tokens_per_s": 1.0})
    square = dataclasses.replace(TINY, model=llama(64, 4, 4, 64, 2, 512), sequence=32)  # one shape of product
    fp8.measure(square, kept)
    assert [row["name"].split(" ")[:2] for row in rows] == [
        ["compare", "fp8_emulated"],
        ["product", "plain"],
        ["product", "fp8_emulated"],
        ["step", "whole"],
        ["step", "whole"],
    ]
    assert not [row for row in rows if "failed" in row]
    assert rows[0]["fits"]
    assert rows[1]["tflops"] > 0
    assert [row["name"].endswith("matmul fp8,fp8_emulated") for row in rows[3:]] == [False, True]


def test_what_fails_or_has_no_time_left_is_a_row_and_ends_nothing(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    rows = Rows(out, "part", deadline=1e12, facts={"card": "none"})

    def breaks():
        raise ValueError("first line\nsecond")

    assert rows.measure("a", 1, breaks) is None
    assert rows.measure("b", 1e13, dict) is None
    assert rows.measure("c", 1, lambda: {"ms": 2.0}) == {"ms": 2.0}
    kept = [json.loads(line) for line in out.read_text().splitlines()]
    assert kept[0]["failed"] == "ValueError: first line"
    assert "not_run" in kept[1]
    assert kept[2]["ms"] == 2.0


def test_visible_pairs_are_those_of_the_mask_written_out():
    ids = documents(2, 64, 12)
    i = np.arange(64)
    for window in (None, 5):
        seen = (ids[:, :, None] == ids[:, None]) & (i[:, None] >= i)
        seen &= True if window is None else i[:, None] - i < window
        assert visible_pairs(ids, window) == seen.sum()
    assert (positions(ids)[:, 0] == 0).all()
    assert (np.diff(positions(ids), axis=1)[np.diff(ids, axis=1) == 0] == 1).all()


def test_a_profile_is_summed_by_kind_and_its_gaps_are_what_no_stream_fills():
    def kernel(name, start, length, tid=7):
        return {"ph": "X", "pid": 1, "tid": tid, "name": name, "ts": start, "dur": length}

    named = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 1, "tid": 7, "name": "thread_name", "args": {"name": "Stream #7(Compute)"}},
        {"ph": "M", "pid": 1, "tid": 8, "name": "thread_name", "args": {"name": "XLA Ops"}},
        {"ph": "M", "pid": 2, "name": "process_name", "args": {"name": "/host:CPU"}},
        {"ph": "M", "pid": 2, "tid": 7, "name": "thread_name", "args": {"name": "Stream of thoughts"}},
    ]
    ran = [kernel("nvjet_sm90_tst", 0, 1000), kernel("memcpy128", 500, 1000), kernel("loop_add_fusion", 2000, 500)]
    other = [kernel("whole", 0, 9000, tid=8), {**kernel("host", 0, 9000), "pid": 2}]
    table = summary(device_events({"traceEvents": [*named, *ran, *other]}))
    assert table["span_ms"] == pytest.approx(2.5)
    assert table["gaps_ms"] == pytest.approx(0.5)
    assert table["kinds"] == {"matrix product": [1.0, 1], "copy": [1.0, 1], "elementwise": [0.5, 1]}
    assert kind_of("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16") == "attention"
