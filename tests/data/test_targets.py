"""Records of teacher targets: what is written is read, in the bytes that are stated; what is damaged is refused."""

import numpy as np
import pytest

from jaxpt.data.targets import TargetKind, counted, decode, encode, likeliest, widened
from jaxpt.errors import JaxptError

S = 29


def made(rng, n, vocab, share=0.7):
    """Draws `[S, n]` that repeat, entropies, and which positions are real."""
    high = np.minimum(vocab, rng.integers(1, vocab + 1, S))
    draws = vocab - 1 - (rng.random((S, n)) ** 3 * high[:, None]).astype(np.int64)
    return draws, rng.random(S).astype(np.float32) * 12, rng.random(S) < share


@pytest.mark.parametrize(("n", "vocab"), [(1, 1), (50, 7), (50, 2**18), (63, 2**18 + 1), (63, 2**26)])
def test_counts_of_random_draws_come_back_exactly_in_the_stated_bytes(n, vocab):
    rng, kind = np.random.default_rng(n + vocab), TargetKind("sampled", n, vocab)
    for share in (0, 0.5, 1):
        draws, entropy, real = made(rng, n, vocab, share)
        targets = counted(draws, entropy, real)
        record = encode(targets, kind)
        distinct = [len(set(row)) for row in draws[real]]
        pair = 3 if vocab <= 2**18 else 4
        assert len(record) == S - sum(real) + sum(pair * u + 3 for u in distinct)
        back = decode(record, S, kind)
        for a, b in zip(back, targets):
            np.testing.assert_array_equal(a, b)
        wide = widened([back], kind, n)
        for at in range(S):
            ids, counts = np.unique(draws[at], return_counts=True)
            got = {int(i): float(w) for i, w in zip(wide.ids[0, at], wide.weights[0, at]) if w}
            assert got == ({int(i): np.float32(c) / np.float32(n) for i, c in zip(ids, counts)} if real[at] else {})
        np.testing.assert_array_equal(wide.entropy[0], np.where(real, entropy.astype(np.float16), 0))


def test_the_likeliest_ids_come_back_to_a_four_thousandth_of_a_nat():
    rng, kind = np.random.default_rng(5), TargetKind("top_k", 6, 300_000)
    ids = np.argsort(rng.random((S, 300)), axis=1)[:, :6] + 299_700
    log_p = -np.sort(rng.random((S, 6)) * 31, axis=1).astype(np.float32) - 0.5
    real = rng.random(S) < 0.6
    record = encode(likeliest(ids, log_p, np.ones(S, np.float32), real), kind)
    assert len(record) == S + sum(real) * (2 + 6 * 6)
    wide = widened([decode(record, S, kind)], kind, 6)
    np.testing.assert_array_equal(wide.ids[0], np.where(real[:, None], ids, 0))
    np.testing.assert_allclose(wide.weights[0], np.where(real[:, None], np.exp(log_p), 0), rtol=2.6e-4)


def test_five_bytes_an_id_and_three_a_position_as_top_k():
    targets = likeliest(np.zeros((S, 8), int), np.zeros((S, 8)), np.zeros(S), np.ones(S, bool))
    assert len(encode(targets, TargetKind("top_k", 8, 1000))) == S * (5 * 8 + 3)


def test_rows_side_by_side_are_padded_and_never_cut():
    rng, kind = np.random.default_rng(3), TargetKind("sampled", 50, 100)
    rows = [counted(*made(rng, 50, 100)) for _ in range(3)]
    width = max(int(r.lengths.max()) for r in rows)
    wide = widened(rows, kind, width + 2)
    assert wide.ids.shape == (3, S, width + 2)
    np.testing.assert_array_equal((wide.weights > 0).sum(-1), [r.lengths for r in rows])
    with pytest.raises(ValueError, match=f"a position has {width} ids, room is for {width - 1}"):
        widened(rows, kind, width - 1)


def test_bytes_that_are_no_record_are_refused():
    rng, kind = np.random.default_rng(4), TargetKind("sampled", 50, 100)
    record = encode(counted(*made(rng, 50, 100)), kind)
    with pytest.raises(ValueError, match="bytes for"):
        decode(record[:-1], S, kind)
    with pytest.raises(ValueError, match="bytes for"):
        decode(record[: S // 2], S, kind)
    with pytest.raises(ValueError, match="do not sum to 50"):
        decode(record[:-3] + bytes([record[-3] ^ 1]) + record[-2:], S, kind)
    with pytest.raises(ValueError, match="in a vocabulary of 60"):
        decode(record, S, TargetKind("sampled", 50, 60))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (("sampled", 64, 100), "--draws=64 must be from 1 to 63"),
        (("sampled", 0, 100), "--draws=0 must be"),
        (("top_k", 256, 1000), "--k=256 must be from 1 to 255"),
        (("top_k", 11, 10), "--k=11 is more than the vocabulary has"),
        (("sampled", 50, 2**26 + 1), "more than targets can name"),
    ],
)
def test_what_a_record_cannot_hold_is_refused(kind, message):
    with pytest.raises(JaxptError, match=message):
        TargetKind(*kind)
