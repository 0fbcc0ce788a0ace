"""Gates, what they are expected to leave, and the constraint, against draws, enumeration and the published formulas."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import LayerSpec, MoeConfig, active_param_count, flatten, param_count, param_specs, uniform_layers
from jaxpt.models.masks import gate_axes
from jaxpt.reshape.budget import Budget, all_lengths, expected_counts, expected_lengths, resized, shape_for
from jaxpt.reshape.constraint import lagrangian, sparsities, targets
from jaxpt.reshape.gates.hard_concrete import HardConcrete
from jaxpt.reshape.gates.relu import FLOOR, Relu
from jaxpt.reshape.target import lengths
from tests.models.tiny import VARIANTS, config

HARD, SHARE = HardConcrete(), jnp.float32(1.0)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("log_alpha", [-4.605, -1.5, 0.0, 2.0, 4.605])
def test_the_retention_is_how_often_a_drawn_gate_is_not_zero(log_alpha):
    n = 1_000_000
    z = HARD.gates(jnp.full((n,), log_alpha), jax.random.key(1))
    p = float(HARD.retention(jnp.float32(log_alpha), SHARE))
    assert abs(float(jnp.mean(z > 0)) - p) < 3 * math.sqrt(p * (1 - p) / n) + 1e-9
    # as in the released code: P(z = 0) = sigmoid(T logit(1/12) - log alpha), T logit(1/12) = -1.5986
    assert p == pytest.approx(1 - sigmoid(2 / 3 * math.log((1 / 12) / (11 / 12)) - log_alpha), abs=1e-6)


def test_the_retention_is_not_the_mean_of_the_gate():  # the proof above can fail
    z = HARD.gates(jnp.zeros((100_000,)), jax.random.key(1))
    assert abs(float(jnp.mean(z)) - 0.5) < 0.01
    assert float(HARD.retention(jnp.float32(0), SHARE)) == pytest.approx(0.832, abs=1e-3)


@pytest.mark.parametrize("gate", [HARD, Relu()], ids=["hard_concrete", "relu"])
def test_the_gradient_of_the_retention_is_that_of_finite_differences(gate):
    at, step, share = jnp.linspace(-0.4, 1.3, 9) if isinstance(gate, Relu) else jnp.linspace(-4, 4, 9), 1e-2, 0.25
    slope = jax.vmap(jax.grad(lambda x: gate.retention(x, jnp.float32(share))))(at)
    apart = (gate.retention(at + step, share) - gate.retention(at - step, share)) / (2 * step)
    inside = np.asarray((gate.retention(at, share) > 0.01) & (gate.retention(at, share) < 0.99))
    assert inside.sum() > 2
    np.testing.assert_allclose(np.asarray(slope)[inside], np.asarray(apart)[inside], rtol=1e-2, atol=2e-4)
    assert float(jnp.max(slope)) > 0.1


def test_the_constraint_moves_relu_gates_from_the_first_step_on():
    slope = jax.grad(lambda x: Relu().retention(x, jnp.float32(0)))(jnp.float32(1.0))
    assert float(Relu().retention(jnp.float32(1.0), jnp.float32(0))) == pytest.approx(1)
    assert float(slope) > 0.1


def test_trained_numbers_begin_at_the_limit_of_the_released_code():
    assert HARD.bounds == (pytest.approx(math.log(0.01)), pytest.approx(math.log(100)))
    assert HARD.first == (5.0, 0.01)
    assert float(HARD.retention(jnp.float32(HARD.bounds[1]), SHARE)) > 0.997
    assert HARD.left(np.zeros(3)) is None


def test_relu_gates_count_by_a_threshold_that_falls_and_stay_what_they_are():
    gate = Relu()
    theta = jnp.array([-0.2, 0.04, 0.06, 0.3, 0.5, 1.0])
    first, last = (np.asarray(gate.retention(theta, jnp.float32(share))) for share in (0, 1))
    assert first[4] == pytest.approx(0.5, abs=1e-6)  # at mu = 0.5
    np.testing.assert_allclose(last[[0, 3, 5]], [0, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(gate.gates(theta, jax.random.key(0)), jnp.maximum(theta, 0))
    np.testing.assert_allclose(gate.left(np.asarray(theta)), [FLOOR, 0.04, 0.06, 0.3, 0.5, 1.0])
    even = gate.penalty({"mlp": jnp.full((4,), 0.5), "embed": jnp.zeros(3)})
    assert float(even) == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HardConcrete(low=0.1), "low is 0.1, it must be below 0"),
        (lambda: HardConcrete(high=1.0), "high is 1.0, it must be above 1"),
        (lambda: HardConcrete(limit=1.0), "limit is 1.0"),
        (lambda: Relu(end=0.0), "end is 0.0, it must be above 0"),
        (lambda: Budget(parameters=5, bytes=5), "budget has parameters and bytes; give one"),
        (lambda: Budget(parameters=5, multiple_of={"mpl": 2}), "multiple_of.mpl is not an axis"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, said):
    with pytest.raises(JaxptError, match=said):
        make()


def test_expected_parameters_are_their_mean_over_all_masks():
    c = config(vocab_size=3, embed=2, heads=2, kv_heads=1, head_dim=2, mlp=2, layers=uniform_layers(2))
    rng = np.random.default_rng(0)
    keep = {axis: rng.uniform(0.1, 0.9, shape).astype(np.float32) for axis, shape in gate_axes(c).items()}
    flat = np.concatenate([k.ravel() for k in keep.values()])
    bits = np.array(list(itertools.product((0, 1), repeat=len(flat))))
    chance = np.prod(np.where(bits == 1, flat, 1 - flat), axis=1)
    parts, at = {}, 0
    for axis, k in keep.items():
        parts[axis] = bits[:, at : at + k.size].reshape(-1, *k.shape)
        at += k.size
    d = parts["embed"].sum(-1)
    kv, f = parts["kv_heads"].sum(-1), parts["mlp"].sum(-1)
    h = (parts["heads"] * np.repeat(parts["kv_heads"], 2, -1)).sum(-1)
    block = parts["layers"] * (2 * d[:, None] * (h + kv) * 2 + 3 * d[:, None] * f + 2 * d[:, None])
    whole = d * 3 + d + d * 3 + block.sum(-1)
    got = sum(expected_counts(c, {a: jnp.asarray(k) for a, k in keep.items()}).values())
    assert float(got) == pytest.approx(float((whole * chance).sum()), rel=1e-5)
    ones = {axis: jnp.ones(shape) for axis, shape in gate_axes(c).items()}
    assert int(sum(expected_counts(c, ones).values())) == param_count(c) == int(whole[-1])


@pytest.mark.parametrize("kind", ["parameters", "bytes"])
def test_the_expected_size_is_the_mean_over_masks_that_are_drawn(kind):
    windows = (LayerSpec("window", 5), LayerSpec("window", 5), LayerSpec())
    c = config(vocab_size=11, embed=6, heads=4, kv_heads=2, head_dim=4, mlp=10, layers=windows)
    rng, count = np.random.default_rng(3), 20_000
    theta = {axis: rng.uniform(-2, 3, shape).astype(np.float32) for axis, shape in gate_axes(c).items()}
    keys = jax.random.split(jax.random.key(4), len(theta))
    drawn = {
        axis: np.asarray(HARD.gates(jnp.broadcast_to(t, (count, *t.shape)), key)) > 0
        for (axis, t), key in zip(theta.items(), keys)
    }
    d, f, kv = drawn["embed"].sum(-1), drawn["mlp"].sum(-1), drawn["kv_heads"].sum(-1)
    h = (drawn["heads"] & np.repeat(drawn["kv_heads"], 2, axis=-1)).sum(-1)
    block = d[:, None] * (2 * 4 * (h + kv) + 3 * f + 2)
    size = d * (11 + 1 + 11) + (drawn["layers"] * block).sum(-1)
    if kind == "bytes":  # of 2 a number; three sequences of 20, of which two layers keep 5
        size = 2 * (size + (drawn["layers"] * kv * 2 * 4 * 3 * np.array([5, 5, 20])).sum(-1))
    keep = {axis: HARD.retention(jnp.asarray(t), SHARE) for axis, t in theta.items()}
    got = float(Budget(**{kind: 1}, rows=3, length=20).expected(c, keep))
    assert abs(got - size.mean()) < 3 * size.std() / math.sqrt(count)
    soft = {
        axis: HARD.still(jnp.asarray(t)) for axis, t in theta.items()
    }  # the mean of a gate is not how often it stays
    wrong = float(Budget(**{kind: 1}, rows=3, length=20).expected(c, soft))
    assert abs(wrong - size.mean()) > 30 * size.std() / math.sqrt(count)


def test_expected_parameters_are_those_of_the_published_formula_where_it_applies():
    c = config(
        heads=6, kv_heads=6, head_dim=4
    )  # its params_per_head assumes as many kv heads, and heads · head_dim = d
    rng = np.random.default_rng(1)
    shapes = gate_axes(c)
    keep = {a: rng.uniform(0.1, 0.9, shapes[a]).astype(np.float32) for a in ("embed", "layers", "kv_heads", "mlp")}
    d, head = c.embed, 4 * c.embed**2 / c.heads
    per_layer = keep["layers"][:, None]
    published = keep["embed"].sum() * (per_layer * keep["kv_heads"]).sum() * head / d
    published += keep["embed"].sum() * (per_layer * keep["mlp"]).sum() * 3 * d / d
    matrices = {path for path, spec in flatten(param_specs(c)).items() if spec.stacked and not spec.gain}
    got = {p: v for p, v in expected_counts(c, {a: jnp.asarray(k) for a, k in keep.items()}).items() if p in matrices}
    assert float(sum(got.values())) == pytest.approx(float(published), rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "moe_mixed", "moe", "o_bias"])
def test_expected_sizes_of_whole_gates_are_those_of_the_model(name):
    c = VARIANTS[name]
    ones = {axis: jnp.ones(shape) for axis, shape in gate_axes(c).items()}
    for budget in (Budget(parameters=1), Budget(active_parameters=1), Budget(bytes=1, rows=3, length=20)):
        assert float(budget.expected(c, ones)) == pytest.approx(budget.of(c), rel=1e-6)
    assert Budget(active_parameters=1).of(c) == active_param_count(c)


def test_bytes_count_the_cache_up_to_each_window():
    c = VARIANTS["gemma2"]  # windows of 5 in every other of four layers
    cache = 2 * c.kv_heads * c.head_dim * 3 * (2 * 5 + 2 * 20)
    assert Budget(bytes=1, rows=3, length=20).of(c) == 2 * (param_count(c) + cache)


@pytest.mark.parametrize("name", ["llama", "gemma2", "moe", "moe_mixed"])
@pytest.mark.parametrize("kind", ["parameters", "active_parameters", "bytes"])
def test_a_budget_is_met_by_the_shape_that_is_found(name, kind):
    c = VARIANTS[name]
    steps = {"embed": 4, "mlp": 1, "expert_mlp": 1, "shared_mlp": 4}
    size = Budget(**{kind: 1}, length=20).of(c)
    budget = Budget(**{kind: int(0.6 * size)}, length=20, multiple_of=steps)
    rng = np.random.default_rng(2)
    axes = [axis for axis in gate_axes(c) if axis not in ("kv_heads", "layers")]
    keep = {axis: rng.uniform(0.6, 1.0, gate_axes(c)[axis]) for axis in axes}
    want, line = shape_for(c, expected_lengths(c, keep), budget)
    small = resized(c, want)
    off = abs(budget.of(small) / budget.limit - 1)
    assert (line is None) == (off <= 0.01)
    assert off <= (0.01 if "moe" not in name else 0.03), (want, line)
    assert want["embed"] % 4 == 0
    assert want["heads"] % want["kv_heads"] == 0
    assert lengths(c, want) == want


def test_a_budget_that_multiples_do_not_allow_is_told():
    c = VARIANTS["llama"]
    budget = Budget(parameters=param_count(c) // 2, multiple_of={"mlp": 20})
    want, line = shape_for(c, {"mlp": 12.0}, budget)
    assert want["mlp"] == 20
    assert (
        line
        == f"the budget of {budget.limit:,} is missed: {budget.of(resized(c, want)):,} is the nearest that the "
        + ("multiples allow")
    )


def test_the_constraint_is_zero_where_each_row_has_its_target_and_has_the_published_form():
    c, want = VARIANTS["llama"], lengths(VARIANTS["llama"], {"mlp": 10, "heads": 4, "layers": 2, "embed": 12})
    keep = {"embed": jnp.full(24, 0.5), "layers": jnp.full(3, 2 / 3), "heads": jnp.full((3, 6), 2 / 3)}
    keep |= {"mlp": jnp.tile(jnp.array([0.3, 0.2, 0.25])[:, None], (1, 40))}
    s, t = sparsities(c, keep, None), targets(c, tuple(keep), want, None)
    assert {axis: row.shape for axis, row in s.items()} == {"embed": (1,), "layers": (1,), "heads": (6,), "mlp": (3,)}
    pair = jnp.array([3.0, 7.0])
    for axis in ("embed", "layers", "heads"):
        assert abs(float(lagrangian(s[axis], t[axis], pair))) < 1e-6
    rows = np.array([0.7, 0.8, 0.75]) - 0.75
    assert float(lagrangian(s["mlp"], t["mlp"], pair)) == pytest.approx(np.mean(3 * rows + 7 * rows**2), abs=1e-6)


def test_the_mean_of_rows_does_not_hide_rows_that_miss_their_target():
    two = lagrangian(jnp.array([0.25, 0.75]), 0.5, jnp.array([1.0, 2.0]))
    assert float(two) == pytest.approx(2 * 0.0625)


def test_active_parameters_of_a_mixture_with_fewer_experts_stay_those_of_the_chosen():
    c = config(layers=uniform_layers(2, ffn="moe"), moe=MoeConfig(8, 2, 16))
    want = all_lengths(c, {"experts": 4})
    before, after = (Budget(active_parameters=1).of(m) for m in (c, resized(c, want)))
    assert before - after == 2 * c.embed * 4  # of the routers alone
