"""µP's rules: a table written by hand for two shapes, the base shape, and what a choice of each rule changes."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models.config import LayerSpec, ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.moe_config import MoeConfig
from jaxpt.models.mup import BaseShape, MupConfig, initial_specs, parameterised, role, scaling
from jaxpt.models.specs import flatten, param_specs
from jaxpt.optim.chain import descend, make_optimizer
from jaxpt.optim.multipliers import multipliers
from jaxpt.optim.optimizers.adamw import AdamW
from tests.optim.made import draw

DENSE = ModelConfig(
    vocab_size=32, embed=64, heads=8, kv_heads=4, head_dim=8, mlp=96, layers=uniform_layers(8), qkv_bias=True
)
DENSE_BASE = BaseShape(embed=16, heads=2, mlp=48, layers=2)  # m = 4 (embed, heads), 2 (mlp), r = 4
S = 0.02
# path: (deviation of first values, learning rate, weight decay, ε); gains and biases do not decay
DENSE_TABLE = {
    "embed/table": (S, 1, 1, 1 / 4),
    "head": (S, 1, 1, 1 / 4),
    "final_norm": (0, 1, 0, 1 / 4),
    **{f"blocks/dense/{n}": (S / 2, 1 / 4, 4, 1 / 16) for n in ("q", "k", "v", "gate", "up")},
    "blocks/dense/o": (S / 2**1 / 2, 1 / 4, 4, 1 / 16),  # 1/√(2 · 2) of the base's depth
    "blocks/dense/down": (S / 2 / 2**0.5, 1 / 2, 2, 1 / 16),
    **{f"blocks/dense/{n}": (0, 1, 0, 1 / 16) for n in ("attn_norm", "mlp_norm", "q_bias", "k_bias", "v_bias")},
}
MOE = ModelConfig(
    vocab_size=32,
    embed=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp=64,
    layers=(LayerSpec(), LayerSpec(ffn="moe")),
    moe=MoeConfig(4, 2, 48, shared_mlp=16, shared_score=True, selection_bias=True),
    tie_embeddings=True,
)
MOE_BASE = BaseShape(embed=16, heads=2, mlp=16, expert_mlp=16, shared_mlp=16, layers=2)  # m = 2, 4, 3 and 1; r = 1
MATRICES = ("q", "k", "v")
MOE_TABLE = {
    "embed/table": (S, 1, 1, 1 / 2),
    "final_norm": (0, 1, 0, 1 / 2),
    **{f"blocks/{s}/{n}": (S / 2**0.5, 1 / 2, 2, 1 / 2) for s in ("dense", "moe") for n in MATRICES},
    **{f"blocks/{s}/o": (S / 2 / 2**0.5, 1 / 2, 2, 1 / 2) for s in ("dense", "moe")},
    **{
        f"blocks/{s}/{n}": (0, 1, 0, 1 / 2)
        for s, names in (("dense", ()), ("moe", ("q_norm", "k_norm", "router_bias")))
        for n in ("attn_norm", "mlp_norm", *names)
    },
    "blocks/dense/q_norm": (0, 1, 0, 1 / 2),
    "blocks/dense/k_norm": (0, 1, 0, 1 / 2),
    **{
        f"blocks/{n}": (S / 2**0.5, 1 / 2, 2, 1 / 2)
        for n in ("dense/gate", "dense/up", "moe/expert_gate", "moe/expert_up", "moe/shared_gate", "moe/shared_up")
    },
    "blocks/dense/down": (S / 2 / 2, 1 / 4, 4, 1 / 2),
    "blocks/moe/expert_down": (S / 2 / 3**0.5, 1 / 3, 3, 1 / 2),
    "blocks/moe/shared_down": (S / 2, 1, 1, 1 / 2),
    "blocks/moe/router": (S / 2, 1 / 2, 2, 1 / 2),
    "blocks/moe/shared_score": (S / 2, 1 / 2, 2, 1 / 2),
}


def rules(model, mup, size="adam"):
    scale = scaling(mup, model)
    out = {}
    for path, spec in flatten(initial_specs(model, scale)).items():
        out[path] = (spec.init_std if spec.init == "normal" else 0, *multipliers(spec, size, scale))
    return out


@pytest.mark.parametrize(
    ("model", "base", "table"), [(DENSE, DENSE_BASE, DENSE_TABLE), (MOE, MOE_BASE, MOE_TABLE)], ids=["dense", "moe"]
)
def test_every_parameter_has_the_rule_of_the_table_written_by_hand(model, base, table):
    ours = rules(model, MupConfig(base))
    assert ours.keys() == table.keys()
    for path, row in ours.items():
        assert row == pytest.approx(table[path], rel=1e-6), path


def test_a_rule_that_forgets_the_width_of_mlp_would_be_seen():  # the proof above can fail
    ours = rules(DENSE, MupConfig(dataclasses.replace(DENSE_BASE, mlp=96)))
    assert ours["blocks/dense/down"] != pytest.approx(DENSE_TABLE["blocks/dense/down"])


def test_every_parameter_is_in_exactly_one_group():
    for model in (DENSE, MOE):
        roles = {path: role(spec) for path, spec in flatten(param_specs(model)).items()}
        groups = {kind: {p for p, r in roles.items() if r == kind} for kind in ("vector", "matrix", "head", "output")}
        assert sum(map(len, groups.values())) == len(roles)
        assert groups["head"] == (set() if model.tie_embeddings else {"head"})
        experts = {"blocks/moe/router", "blocks/moe/shared_score"} if model.moe else set()
        assert groups["output"] == experts
        names = ("norm", "bias", "table")
        assert groups["vector"] == {p for p in roles if p.endswith(names)}


def test_the_forward_pass_has_its_multipliers():
    made = parameterised(DENSE, scaling(MupConfig(DENSE_BASE, embed_alpha=3.0, output_alpha=2.0), DENSE))
    assert (made.embed_scale, made.logit_scale, made.residual_scale) == (3.0, 2.0 / 4, 1 / 4)
    assert made.attention_scale is None  # head_dim is the base's
    half = dataclasses.replace(DENSE_BASE, head_dim=4)
    made = parameterised(DENSE, scaling(MupConfig(half, attention_alpha=2.0, depth="sqrt"), DENSE))
    assert made.scale == pytest.approx(2.0 * 4**0.5 / 8)
    assert made.residual_scale == 0.5
    assert parameterised(DENSE, scaling(MupConfig(DENSE_BASE, depth="none"), DENSE)).residual_scale == 1


@pytest.mark.parametrize(
    ("size", "q", "router"),
    [("adam", (1 / 2, 2), (1 / 2, 2)), ("rms", (2**-0.5, 2**0.5), (1 / 2, 2)), ("spectral", (1, 1), (2**-0.5, 2**0.5))],
)
def test_an_update_of_another_size_has_another_rule(size, q, router):
    ours = rules(MOE, MupConfig(MOE_BASE), size)
    assert ours["blocks/moe/q"][1:3] == pytest.approx(q)
    assert ours["blocks/moe/router"][1:3] == pytest.approx(router)
    assert ours["embed/table"][1:3] == (1, 1)


def test_the_rules_of_decay_depth_and_eps_are_choices():
    rate, decay = 1 / 4, {"independent": 4, "sqrt": 2, "none": 1}
    for rule, times in decay.items():
        assert rules(DENSE, MupConfig(DENSE_BASE, weight_decay=rule))["blocks/dense/q"][1:3] == (rate, times)
    half = rules(DENSE, MupConfig(DENSE_BASE, depth="sqrt"))
    assert half["blocks/dense/q"][1:] == pytest.approx((rate / 2, 4, 1 / 8))  # r^-½, of the rate and of ε
    assert half["blocks/dense/attn_norm"][1:] == pytest.approx((1 / 2, 0, 1 / 8))
    assert half["final_norm"][1:] == (1, 0, 1 / 4)
    assert rules(DENSE, MupConfig(DENSE_BASE, depth="none"))["blocks/dense/q"][1:] == (rate, 4, 1 / 4)
    assert {row[3] for row in rules(DENSE, MupConfig(DENSE_BASE, eps="constant")).values()} == {1}


def test_head_and_queries_may_begin_at_zero():
    zeros = initial_specs(DENSE, scaling(MupConfig(DENSE_BASE, head_init="zeros", query_init="zeros"), DENSE))
    assert {p for p, s in flatten(zeros).items() if s.init == "zeros" and s.decay} == {"head", "blocks/dense/q"}
    with pytest.raises(JaxptError, match=r"config.mup.head_init is 'zeros', but the head is the embedding"):
        initial_specs(MOE, scaling(MupConfig(MOE_BASE, head_init="zeros"), MOE))


def test_first_values_have_the_deviations_of_the_table():
    scale = scaling(MupConfig(DENSE_BASE), DENSE)
    params = flatten(init_params(DENSE, 0, specs=initial_specs(DENSE, scale)))
    for path in ("embed/table", "head", "blocks/dense/q", "blocks/dense/o", "blocks/dense/down"):
        np.testing.assert_allclose(np.std(params[path]), DENSE_TABLE[path][0], rtol=0.05, err_msg=path)


def one_update(mup, model):
    """Parameters before and after one update by drawn gradients small enough for ε to count."""
    scale = None if mup is None else scaling(mup, model)
    params, grads = draw(0, param_specs(model), 0.02), draw(1, param_specs(model), 1e-3)
    optimizer = make_optimizer(AdamW(weight_decay=0.3, eps=1e-3), param_specs(model), scale)
    update = jax.jit(lambda g, p: descend(p, optimizer.update(g, optimizer.init(p), p)[0], 1e-2, optimizer.lr_mult))
    return flatten(params), flatten(grads), flatten(update(grads, params))


def test_each_parameter_moves_with_its_own_rate_decay_and_eps():
    before, grads, after = one_update(MupConfig(DENSE_BASE), DENSE)
    assert sum(np.sum(np.square(g, dtype=np.float64)) for g in grads.values()) < 1  # not clipped
    for path, (_, rate, decay, eps) in DENSE_TABLE.items():
        g, p = np.float64(grads[path]), np.float64(before[path])
        wanted = p - 1e-2 * rate * (g / (np.abs(g) + 1e-3 * eps) + 0.3 * decay * p)
        np.testing.assert_allclose(after[path], wanted, rtol=1e-5, atol=2e-6, err_msg=path)


def test_at_the_base_shape_nothing_changes_in_any_bit():
    mup = MupConfig(BaseShape(embed=32, heads=4, mlp=64, expert_mlp=48, shared_mlp=16, layers=2))
    scale = scaling(mup, MOE)
    assert parameterised(MOE, scale) == MOE
    assert initial_specs(MOE, scale) == param_specs(MOE)  # first values follow from these and the seed
    assert {multipliers(s, "adam", scale) for s in flatten(param_specs(MOE)).values()} == {(1, 1, 1), (1, 0, 1)}
    jax.tree.map(np.testing.assert_array_equal, one_update(mup, MOE), one_update(None, MOE))


def test_a_base_that_does_not_fit_the_model_is_refused_by_name():
    with pytest.raises(JaxptError, match=r"config.mup.base.mlp is missing; the model has 96"):
        scaling(MupConfig(dataclasses.replace(DENSE_BASE, mlp=None)), DENSE)
    with pytest.raises(JaxptError, match=r"config.mup.base.expert_mlp is 8, the model has no expert_mlp; remove it"):
        scaling(MupConfig(dataclasses.replace(DENSE_BASE, expert_mlp=8)), DENSE)
    with pytest.raises(JaxptError, match=r"base.embed is 0, it must be at least 1"):
        MupConfig(BaseShape(embed=0))
