"""The chain of clipping, core and decay: AdamW's numbers, its state, what decays, and options out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpt.config.schema import build, plain
from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.specs import flatten, map_specs, param_specs
from jaxpt.optim.chain import descend, global_norm, make_optimizer
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from tests.fixtures.archive import open_member
from tests.optim.made import SPECS, draw, run

PARAMS = draw(0, size=0.1)
MATRICES = ("q", "k", "v", "o")
DECAYED = {"embed/table", "head"}
DECAYED |= {f"blocks/dense/{n}" for n in (*MATRICES, "gate", "up", "down")}
DECAYED |= {f"blocks/moe/{n}" for n in (*MATRICES, "router", "expert_gate", "expert_up", "expert_down")}


def by_optax(mask, count=4):
    tx = optax.adamw(1e-2, 0.9, 0.95, 1e-8, weight_decay=0.3, mask=mask)
    params, state, update = PARAMS, tx.init(PARAMS), jax.jit(tx.update)
    for i in range(count):
        updates, state = update(draw(100 + i), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_adamw_takes_the_steps_of_optax():
    ours, _ = run(make_optimizer(AdamW(weight_decay=0.3, clip_norm=None), SPECS), PARAMS)
    theirs = by_optax(map_specs(lambda path, spec: path in DECAYED, SPECS))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_decaying_the_norm_gains_too_would_be_seen():  # the proof above can fail
    ours, _ = run(make_optimizer(AdamW(weight_decay=0.3, clip_norm=None), SPECS), PARAMS)
    theirs = by_optax(map_specs(lambda path, spec: True, SPECS))
    assert not np.allclose(ours["final_norm"], theirs["final_norm"], atol=1e-4)


def test_matrices_decay_and_gains_and_biases_do_not():
    assert {path for path, spec in flatten(SPECS).items() if spec.decay} == DECAYED
    updates, _ = update_of_nothing(AdamW(weight_decay=0.5))
    for path, value in flatten(updates).items():
        np.testing.assert_allclose(value, 0.5 * flatten(PARAMS)[path] if path in DECAYED else 0, err_msg=path)


def update_of_nothing(config):
    optimizer = make_optimizer(config, SPECS)
    return optimizer.update(jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)


def trajectory():
    """100 steps as tests/fixtures/make.py made them at b398682."""
    config = ModelConfig(vocab_size=32, embed=8, heads=2, kv_heads=1, head_dim=4, mlp=16, layers=uniform_layers(2))
    optimizer = make_optimizer(AdamW(), param_specs(config))
    params = init_params(config, 0)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for i in range(100):
        rng = np.random.default_rng(i)
        size = 0.1 if i % 2 else 3.0
        grads = jax.tree.map(lambda p, rng=rng, size=size: size * rng.normal(size=p.shape).astype("float32"), params)
        updates, state = update(grads, state, params)
        params = descend(params, updates, np.float32(1e-2 / (1 + i)), optimizer.lr_mult)
    return {f"params/{k}": v for k, v in flatten(params).items()} | flatten(state)


def test_adamw_stays_on_the_trajectory_of_before_over_100_steps(tmp_path):
    then = dict(np.load(open_member("b398682", "adamw.npz", tmp_path)))
    now = trajectory()
    assert now.keys() == then.keys(), "the state has the same names and paths"
    for key, value in then.items():
        assert now[key].dtype == value.dtype
        np.testing.assert_allclose(now[key], value, rtol=1e-6, atol=1e-6, err_msg=key)


def test_adamw_equals_its_formula_in_float64():
    config = AdamW(learning_rate=1e-2, beta2=0.99, weight_decay=0.2, clip_norm=None)
    ours, state = run(make_optimizer(config, SPECS), PARAMS, steps=20)
    flat = {p: [np.float64(x), 0.0, 0.0] for p, x in flatten(PARAMS).items()}
    for t in range(1, 21):
        for path, g in flatten(draw(99 + t)).items():
            (p, m, v), g = flat[path], np.float64(g)
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8) + (0.2 * p if path in DECAYED else 0)
            flat[path] = [p - 1e-2 * step, m, v]
    for path, (p, m, v) in flat.items():
        np.testing.assert_allclose(flatten(ours)[path], p, rtol=1e-5, atol=1e-6, err_msg=path)
        np.testing.assert_allclose(flatten(state["mu"])[path], m, rtol=1e-4, atol=1e-6, err_msg=path)
        np.testing.assert_allclose(flatten(state["nu"])[path], v, rtol=1e-4, atol=1e-6, err_msg=path)
    assert int(state["count"]) == 20


def test_clipping_scales_to_the_limit_and_leaves_small_gradients_alone():
    grads, seen = draw(0), []
    for limit in (0.5, 1e6, None):
        optimizer = make_optimizer(AdamW(clip_norm=limit, beta1=0.0), SPECS)
        _, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
        seen.append(state["mu"])  # with beta1 = 0 the clipped gradient itself
    assert float(global_norm(seen[0])) == pytest.approx(0.5, rel=1e-5)
    for same in seen[1:]:
        jax.tree.map(np.testing.assert_array_equal, same, grads)


def test_the_learning_rate_is_no_part_of_the_state():
    optimizer = make_optimizer(AdamW(), SPECS)
    assert set(optimizer.state_specs) == {"count", "mu", "nu"}
    assert set(jax.tree.leaves(optimizer.lr_mult)) == {1.0}
    text = str(jax.make_jaxpr(optimizer.update)(PARAMS, optimizer.init(PARAMS), PARAMS))
    assert "0.0003" not in text


def test_any_tree_of_specs_has_an_optimizer():
    specs = {"gates/mlp": SPECS["blocks"]["dense"]["attn_norm"], "lambda": SPECS["final_norm"].__class__((), ())}
    optimizer = make_optimizer(AdamW(), specs)
    params = {"gates/mlp": jnp.ones((1, 8)), "lambda": jnp.float32(2.0)}
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params) == jax.tree.structure(state["mu"])
    assert optimizer.state_specs["nu"]["gates/mlp"].axes == ("layers", "embed")
    new = descend(params, updates, jnp.float32(0.1), optimizer.lr_mult)
    np.testing.assert_allclose(new["lambda"], 2.0 - 0.1 * (1 + 0.1 * 2.0), rtol=1e-5)


def test_a_config_names_its_optimizer_and_is_written_as_before():
    made = build(Optimizer, {"beta2": 0.99}, "config.optimizer")
    assert made == AdamW(beta2=0.99)
    keys = {"name", "learning_rate", "beta1", "beta2", "eps", "weight_decay", "clip_norm", "moments_dtype"}
    assert plain(made).keys() == keys
    assert build(Optimizer, plain(made), "config.optimizer") == made


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "adam"}, "config.optimizer.name is 'adam', which is not an optimizer (did you mean 'adamw'?)"),
        ({"beta3": 1.0}, "config.optimizer.beta3 is not a key (did you mean 'beta2'?)"),
        ({"beta1": 1.0}, "config.optimizer.beta1 is 1.0, it must be at least 0 and below 1"),
        ({"eps": 0.0}, "config.optimizer.eps is 0.0, it must be above 0"),
        ({"clip_norm": -1.0}, "config.optimizer.clip_norm is -1.0, it must be above 0 (None: no clipping)"),
        ({"learning_rate": -1.0}, "config.optimizer.learning_rate is -1.0, it must be at least 0"),
        ({"weight_decay": float("nan")}, "config.optimizer.weight_decay is nan, it must be at least 0"),
    ],
)
def test_a_mistake_in_an_option_names_the_key(values, message):
    with pytest.raises(JaxptError) as error:
        build(Optimizer, values, "config.optimizer").check("config.optimizer")
    assert message in str(error.value)
