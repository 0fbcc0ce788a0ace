"""Positional skip-wise training: positions rise up to the target, nothing else changes, any host draws the same."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpt.data import Loader, PackedWriter, StageData
from jaxpt.data.build import Packing, build
from jaxpt.data.packing import Document, best_fit
from jaxpt.data.pose import Pose, skip
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece

S = 64


def row(lengths, size=S):
    """Positions and segment ids of a row of documents of these lengths, padded."""
    positions, segments = np.zeros(size, np.int32), np.zeros(size, np.int32)
    at = 0
    for i, n in enumerate(lengths, 1):
        positions[at : at + n], segments[at : at + n] = np.arange(n), i
        at += n
    return positions, segments


LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=3)


def check(positions, segments, out, target, chunks):
    assert out.dtype == np.int32
    assert (out[segments == 0] == positions[segments == 0]).all()
    for i in range(1, segments.max() + 1):
        p = out[segments == i]
        assert p[0] >= 0
        assert p[-1] < max(target, len(p))
        steps = np.diff(p)
        assert (steps >= 1).all()
        assert (steps > 1).sum() <= chunks - 1


@settings(max_examples=100, deadline=None)
@given(st.lists(LENGTHS, min_size=1, max_size=4), st.integers(2, 200), st.integers(2, 5), st.integers(0, 2**64 - 1))
def test_positions_rise_with_at_most_one_skip_less_than_chunks_and_stay_below_the_target(rows, target, chunks, seed):
    made = [row(lengths) for lengths in rows]
    positions, segments = (np.stack(x) for x in zip(*made))
    numbers = np.arange(len(rows)) + 10**12
    out = skip(positions, segments, Pose(target, chunks), seed, numbers)
    for p, s, o in zip(positions, segments, out):
        check(p, s, o, target, chunks)
    again = [
        skip(positions[i : i + 1], segments[i : i + 1], Pose(target, chunks), seed, numbers[i : i + 1])
        for i in range(len(rows))
    ]
    np.testing.assert_array_equal(out, np.concatenate(again))  # a row's skips are its own, whatever stands beside it


def test_the_check_above_sees_positions_that_fall():
    positions, segments = row([10])
    bad = positions.copy()
    bad[5:10] -= 3
    with pytest.raises(AssertionError):
        check(positions, segments, bad, 100, 2)


def test_skips_reach_the_target_and_spread_evenly():
    n, rows, target = 32, 4000, 1024
    positions, segments = (np.stack([x] * rows) for x in row([n], n))
    out = skip(positions, segments, Pose(target), 0, np.arange(rows))
    last = out[:, -1]
    jumped = last[last > n - 1] - (n - 1)
    assert out.max() == target - 1 or out.max() > 0.99 * target
    # uniform on 0 … target - n: the mean of so many draws lies within 4 deviations
    assert abs(jumped.mean() - (target - n) / 2) < 4 * (target - n) / np.sqrt(12 * len(jumped))
    cut = np.array([np.flatnonzero(np.diff(p) > 1)[0] for p in out if (np.diff(p) > 1).any()])
    assert abs(cut.mean() - (n - 2) / 2) < 4 * n / np.sqrt(12 * len(cut))
    other = skip(positions, segments, Pose(target), 1, np.arange(rows))
    assert (out != other).any(axis=1).mean() > 0.95


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 40, 300)
    documents = [Document(rng.integers(0, 500, n), np.ones(n, bool), i) for i, n in enumerate(sizes)]
    with PackedWriter(tmp_path_factory.mktemp("s") / "s", S, 500) as writer:
        for packed in best_fit(documents, S, 0):
            writer.write(packed)
        ids = [i.to_bytes(16, "little") for i in range(len(sizes))]
        return writer.finish(ids, sizes.tolist(), "made", {})


def test_only_the_stage_that_asks_for_it_skips_and_only_positions_change(source):
    plain = [StageData(0, 4, 6, S, {"s": 1}), StageData(4, 4, 6, S, {"s": 1})]
    posed = [plain[0], dataclasses.replace(plain[1], pose=Pose(1000))]
    a, b = Loader({"s": source}, plain), Loader({"s": source}, posed, seed=3)
    for step in range(8):
        x, y = a.batch(step), b.batch(step)
        for key in x:
            assert (x[key] == y[key]).all() == (key != "positions" or step < 4), key
    for host in range(3):  # any number of hosts, any order, a loader made anew
        part = slice(2 * host, 2 * host + 2)
        again = Loader({"s": source}, posed, seed=3)
        for step in (7, 4):
            np.testing.assert_array_equal(again.batch(step, part)["positions"], b.batch(step)["positions"][part])


def test_a_row_taken_again_in_a_later_epoch_skips_elsewhere(source):
    steps = -(-2 * source.rows // 4)
    loader = Loader({"s": source}, [StageData(0, steps, 4, S, {"s": 1}, Pose(5000))], repeat={"s": 3})
    seen = {}
    for step in range(steps):
        batch = loader.batch(step)
        for n, p in zip(batch["row_id"], batch["positions"]):
            seen.setdefault(int(n), []).append(p)
    twice = [v for v in seen.values() if len(v) > 1]
    assert sum((v[0] != v[1]).any() for v in twice) > 0.9 * len(twice)


def test_bad_options_are_refused():
    for options in ({"target": 100, "chunks": 1}, {"target": 1}):
        with pytest.raises(JaxptError, match=r"pose\..* it must be at least 2"):
            Pose(**options)


def test_rows_of_32k_hold_whole_documents(tmp_path):
    words = np.array(
        [
            "the",
            "of",
            "and",
            "language",
            "model",
            "position",
            "train",
            "long",
            "short",
            "row",
            "token",
            "document",
            "loss",
        ]
    )
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, n)) for n in (10_500, 7_000, 3_300, 900, 20, 10_800, 5_000)]
    tokenizer = train_sentencepiece([t[:3000] for t in texts] * 3, tmp_path / "t" / "tokenizer.model", 310)
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    length = 32_768
    whole = build(str(tmp_path / "d.jsonl"), tmp_path / "whole", tokenizer, length)
    assert whole.column("document_tokens").max() > length // 4
    assert np.bincount(whole.column("segment_document")).tolist() == [1] * len(texts)  # one segment each: none was cut
    batch = whole.read(range(whole.rows))
    for r in range(whole.rows):
        for s in range(1, batch["segment_ids"][r].max() + 1):
            assert batch["positions"][r][batch["segment_ids"][r] == s][0] == 0
    cut = build(str(tmp_path / "d.jsonl"), tmp_path / "cut", tokenizer, length // 8, Packing(packer="concat"))
    assert np.bincount(cut.column("segment_document")).max() > 1  # what the proof above would see
