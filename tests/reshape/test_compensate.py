"""Least-squares compensation: identity when all is kept, never worse than selection, equal to brute force."""

import jax
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import flatten
from jaxpt.reshape.apply import apply
from jaxpt.reshape.axes import AxisMap, rewrite_axes
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.compensate import compensated, gather_compensation, moment_flops, score_and_compensate, solve
from jaxpt.reshape.stream import InMemory, Reshaped, gather
from jaxpt.reshape.subclone import choose, cut, subclone_rewrite
from jaxpt.reshape.target import lengths
from jaxpt.reshape.walk import walk
from tests.models.tiny import DENSE, VARIANTS
from tests.reshape.proofs import batches, logits, random_params, reshaped

RNG = np.random.default_rng(0)


def test_keeping_everything_gives_the_matrix_back():
    x = RNG.normal(size=(200, 12))
    np.testing.assert_allclose(solve(x.T @ x, np.arange(12), 1e-9), np.eye(12), atol=1e-5)


def test_the_solution_is_that_of_brute_force_least_squares_and_beats_selection():
    x = RNG.normal(size=(200, 12)) @ RNG.normal(size=(12, 12))
    m = RNG.normal(size=(12, 5))
    kept = np.array([0, 3, 4, 8])
    ours = solve(x.T @ x, kept, 1e-12) @ m
    brute, *_ = np.linalg.lstsq(x[:, kept], x @ m, rcond=None)
    np.testing.assert_allclose(ours, brute, rtol=1e-4, atol=1e-5)

    def error(matrix):
        return np.square(x @ m - x[:, kept] @ matrix).mean()

    assert error(ours) < 0.9 * error(m[kept])
    assert error(ours[::-1]) > error(m[kept])  # a wrong solution is not below


def of_axes(c, p, want, b):
    scores = activation_scores(InMemory(c, p), b, data="test")
    want = lengths(c, want)
    kept = choose(c, want, scores)
    rewrite = cut(c, want, kept)
    index = {a: getattr(kept, a) for a in ("mlp", "heads") if getattr(kept, a) is not None}
    return rewrite, compensated(rewrite, gather_compensation(InMemory(c, p), b, index), tokens=24, flops=1.0)


@pytest.mark.parametrize("name", [n for n in DENSE if n != "olmo2"])
def test_a_cut_layers_output_is_closer_on_the_calibration_data(name):
    c = VARIANTS[name].replace(layers=VARIANTS[name].layers[:1])
    p = random_params(c)
    b = batches(c, 2, rows=6)

    def error(rewrite):
        """Of the stream after the only layer, at real tokens."""
        got = walk(InMemory(rewrite.target, apply(rewrite, p)), b)
        want = walk(InMemory(c, p), b)
        return sum(
            float(np.square(np.asarray(g - w) * x["segment_ids"][..., None]).sum()) for g, w, x in zip(got, want, b)
        )

    for want in ({"mlp": 20}, {"kv_heads": 1}):
        plain, better = of_axes(c, p, want, b)
        assert error(better) < error(plain), want


def test_compensating_for_nothing_keeps_the_function():
    c = VARIANTS["qwen2"]
    p = random_params(c)
    b = batches(c, 8, rows=8)
    everything = {
        "mlp": np.broadcast_to(np.arange(c.mlp), (3, c.mlp)),
        "heads": np.broadcast_to(np.arange(c.heads), (3, c.heads)),
    }
    rewrite = rewrite_axes(c, {a: AxisMap(i) for a, i in everything.items()}, entry={"layers": [0, 1, 2]})
    fixed = compensated(rewrite, gather_compensation(InMemory(c, p), b, everything, ridge=1e-9))
    np.testing.assert_allclose(reshaped(fixed, p), logits(c, p), rtol=1e-2, atol=1e-2)


def test_matrices_on_disk_and_streaming_give_the_same_result(tmp_path):
    c = VARIANTS["llama"]
    p = random_params(c)
    b = batches(c)
    rewrite = subclone_rewrite(c, {"mlp": 20, "embed": 12, "layers": 2}, activation_scores(InMemory(c, p), b, data="x"))
    index = {"mlp": rewrite.rules["blocks/dense/up"][0].ops[1].index}
    full = np.zeros((3, 20), np.int64)
    full[rewrite.entry["layers"]] = index["mlp"]
    memory = gather_compensation(InMemory(c, p), b, {"mlp": full})
    disk = gather_compensation(InMemory(c, p), b, {"mlp": full}, folder=tmp_path)
    np.testing.assert_array_equal(memory["mlp"], disk["mlp"])
    assert isinstance(disk["mlp"], np.memmap)
    one, two = compensated(rewrite, memory), compensated(rewrite, disk, tokens=7)
    a, z = apply(one, p), gather(Reshaped(InMemory(c, p), two))
    jax.tree.map(np.testing.assert_array_equal, a, z)
    assert two.entry["compensation"] == ["mlp"]
    assert two.entry["tokens"] == one.entry["tokens"] + 7
    plain = flatten(apply(rewrite, p))
    changed = {k for k, v in flatten(a).items() if not np.array_equal(v, plain[k])}
    assert changed == {"blocks/dense/down"}


@pytest.mark.parametrize("name", ["llama", "qwen3", "o_bias"])
def test_one_pass_gives_the_scores_and_the_matrices_of_two(name):
    c = VARIANTS[name]
    source, b = InMemory(c, random_params(c)), batches(c)
    want = lengths(c, {"mlp": 20, "kv_heads": 1, "heads": 2, "embed": 12, "layers": 2})
    scores, matrices = score_and_compensate(source, b, want, data="x")
    alone = activation_scores(source, b, data="x")
    kept = choose(c, want, alone)
    apart = gather_compensation(source, b, {"mlp": kept.mlp, "heads": kept.heads})
    assert scores.meta == alone.meta
    jax.tree.map(np.testing.assert_array_equal, dict(scores.values), dict(alone.values))
    for axis, matrix in apart.items():
        np.testing.assert_allclose(matrices[axis], matrix, rtol=1e-5, atol=1e-6)
    assert moment_flops(c, ("mlp", "heads"), 10) == 10 * 3 * 2 * (40**2 + 48**2)


def test_a_changed_head_dim_is_refused():
    c = VARIANTS["llama"]
    with pytest.raises(JaxptError, match="unchanged head_dim"):
        compensated(subclone_rewrite(c, {"head_dim": 4}, selection="uniform"), {})
