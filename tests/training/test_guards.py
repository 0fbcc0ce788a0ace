"""What is not finite never reaches the state, with any optimizer; planted rows with each guard on and off."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.config.choice import choices
from jaxpt.models.compute import Compute
from jaxpt.models.config import LayerSpec, ModelConfig, MoeConfig
from jaxpt.models.init import init_leaf, init_params, leaf_key
from jaxpt.models.specs import ParamSpec, flatten, map_specs, param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import ExtraSpec, Group
from jaxpt.optim.averagings.ema import Ema
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.clippings.adagc import AdaGC
from jaxpt.optim.clippings.none import GlobalNormOnly
from jaxpt.optim.clippings.zclip import ZClip
from jaxpt.optim.guards.finite import Finite
from jaxpt.optim.guards.observe import Observe
from jaxpt.optim.guards.skip import Skip
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.moves import Moves
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from tests.training import tiny

OPTIMIZERS = choices(Optimizer)
SPECS = param_specs(tiny.MODEL)
TWO = {  # a stack of matrices and a gain: each optimizer treats them apart
    "blocks": {"dense": {"w": ParamSpec((2, 8, 4), ("layers", "embed", "mlp"), ("embed",), ("mlp",))}},
    "gain": ParamSpec((8,), ("embed",), init="ones", decay=False, gain=True),
}


@dataclasses.dataclass(frozen=True)
class WithExtra(NextToken):
    """Trains four numbers besides the model."""

    def extra_specs(self, model):
        return {"gates": ExtraSpec((4,), ("embed",), init="ones", group="gates")}

    def groups(self):
        return {"gates": Group(AdamW(learning_rate=0.1))}


def same(a, b):
    """Whether two trees hold the same bits."""
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    return all(np.asarray(a[p]).tobytes() == np.asarray(b[p]).tobytes() for p in a)


def moved(name, guard):
    """The jitted move of one optimizer, and the first state, with all that a state can hold."""
    layout = make_layout(tiny.MODEL, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    objective, optimizer = WithExtra(), make_optimizer(OPTIMIZERS[name](), TWO)
    guards = Safeguards(guard, ZClip(), Ema())
    extra = make_extra(objective, tiny.MODEL)
    moves = Moves(objective, tiny.MODEL, optimizer, extra, map_specs(lambda path, spec: True, TWO), guards, 128)
    layout = dataclasses.replace(layout, params=layout.of(TWO))
    state = new_state(layout, optimizer, init_leaves(TWO))
    state = state._replace(extra=begin({}, extra, layout, 0, fresh=False)[0])
    state, _ = guards.begin(state, layout, TWO)
    return jax.jit(lambda *given: moves(*given)), state


def init_leaves(specs):
    return map_specs(lambda path, spec: init_leaf(spec, leaf_key(0, path)), specs)


def grads_of(seed, state):
    leaves, tree = jax.tree.flatten((state.params, state.extra["values"]))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


def with_entry(grads, path, value):
    """The gradients with one odd entry."""
    return jax.tree_util.tree_map_with_path(
        lambda at, g: (
            g.at[(0,) * g.ndim].set(value) if jax.tree_util.keystr(at, simple=True, separator="/") == path else g
        ),
        grads,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_that_is_not_finite_reaches_the_state_with_any_optimizer(name):
    moves, state = moved(name, Finite())
    given = StepArguments(jnp.float32(1e-2), {"gates": jnp.float32(0.1)}, step=jnp.uint32(3))
    facts = {"loss": jnp.float32(3.0)}, {}
    state, _ = moves(state, *grads_of(0, state), facts, given)
    good = grads_of(1, state)
    huge = given._replace(learning_rate=jnp.float32(np.inf))
    cases = {
        "a loss": (good, ({"loss": jnp.float32(np.nan)}, {}), given),
        "an entry of a gradient": ((with_entry(good[0], "blocks/dense/w", np.nan), good[1]), facts, given),
        "an infinite one": ((with_entry(good[0], "gain", -np.inf), good[1]), facts, given),
        "one of an extra thing": ((good[0], with_entry(good[1], "gates", np.nan)), facts, given),
        "parameters beyond all bounds": (good, facts, huge),
    }
    before = {k: v for k, v in state.to_items().items() if k != "guard"}
    for case, (grads, said, arguments) in cases.items():
        after, values = moves(state, *grads, said, arguments)
        assert bool(values["skipped"]), case
        assert same({k: v for k, v in after.to_items().items() if k != "guard"}, before), case
        assert same(after.guard["clipping"], state.guard["clipping"]), case
        assert int(after.guard["guard"]["skipped"]) == 1
        assert int(after.guard["guard"]["entries"]) == int(state.guard["guard"]["entries"])
    after, values = moves(state, *good, facts, given)
    assert not bool(values["skipped"])
    for item in ("params", "opt_state", "extra", "mean"):
        assert not same(after.to_items()[item], before[item]), item


def test_without_a_guard_it_would_reach_the_state():
    moves, state = moved("adamw", Observe())
    given = StepArguments(jnp.float32(1e-2), {"gates": jnp.float32(0.1)}, step=jnp.uint32(3))
    grads, extra = grads_of(1, state)
    after, values = moves(
        state, with_entry(grads, "blocks/dense/w", np.nan), extra, ({"loss": jnp.float32(3.0)}, {}), given
    )
    assert not bool(values["finite"])
    assert not np.isfinite(flatten(after.params)["blocks/dense/w"]).all()
    assert not np.isfinite(flatten(after.mean)["blocks/dense/w"]).all()


MOE = ModelConfig(
    vocab_size=48,
    embed=16,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp=16,
    layers=(LayerSpec(ffn="moe"),),
    moe=MoeConfig(4, 2, 8, selection_bias=True),
    tie_embeddings=True,
)


SPIKE, NAN, STEPS = 40, 42, 44


def planted(step, odd):
    """A batch that is easy to learn; where `odd`, a row of noise that counts a thousandfold, or a weight of NaN."""
    b = tiny.batch(step)
    b["loss_weights"] = np.ones_like(b["loss_weights"])
    b["tokens"] = np.tile(np.arange(tiny.S, dtype=np.int32) % 4 + step % 3, (tiny.B, 1))
    b["targets"] = b["tokens"]
    if odd and step == SPIKE:
        b["targets"] = 47 - b["tokens"]
        b["loss_weights"][0] = 1000.0
    if odd and step == NAN:
        b["loss_weights"][3, 2] = np.nan
    return b


def steps_of(guard, clipping=None, odd=True):
    """The states of some steps of a mixture of experts on the host, and what each step said."""
    layout = make_layout(MOE, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(MOE))
    guards = Safeguards(guard, clipping or GlobalNormOnly(), Ema())
    spec = StepSpec(MOE, NextToken(bias_rate=1e-2), Compute(), tiny.B, tiny.S, 1, (), 3)
    step = make_step(spec, optimizer, layout, safeguards=guards)
    state = new_state(layout, optimizer, init_params(MOE, 0, layout.params))
    state, _ = guards.begin(state, layout, optimizer.specs)
    history, said = [jax.device_get(state)], []
    with jax.set_mesh(layout.mesh):
        for i in range(STEPS):
            batch = place(planted(i, odd), batch_sharding(layout.mesh), tiny.B)
            state, values = step(state, batch, StepArguments(np.float32(1e-2), step=np.uint32(i)))
            history.append(jax.device_get(state))
            said.append(jax.device_get(values))
    assert step._cache_size() == 1
    return history, said


@pytest.mark.parametrize("guard", [Observe(window=16), Finite(window=16), Skip(window=16)], ids=lambda g: g.name)
def test_planted_rows_with_each_guard(guard):
    history, said = steps_of(guard)
    skips = {SPIKE: guard.skips_outliers, NAN: guard.skips_not_finite}
    assert [bool(v["skipped"]) for v in said] == [skips.get(i, False) for i in range(STEPS)]
    spiked = [int(s) for s in history[-1].guard["guard"]["spiked_at"] if s >= 0]
    assert spiked == ([NAN, SPIKE] if guard.skips_not_finite else [43, NAN, SPIKE])  # NaN that was taken stays
    for step, kept in skips.items():
        before, after = history[step], history[step + 1]
        for item in ("params", "opt_state", "mean"):
            assert same(before.to_items()[item], after.to_items()[item]) == kept, (step, item)
        bias = [flatten(s.params)["blocks/moe/router_bias"].tobytes() for s in (before, after)]
        assert (bias[0] == bias[1]) == kept
    finite = all(np.isfinite(x).all() for x in jax.tree.leaves(history[-1].params))
    assert finite == guard.skips_not_finite


def test_without_a_planted_row_nothing_is_skipped_and_clipping_goes_on_in_the_state():
    history, said = steps_of(Skip(window=16), AdaGC(warmup=5), odd=False)
    assert not any(v["skipped"] for v in said)
    assert not same(history[-2].guard["clipping"], history[-1].guard["clipping"])


def test_the_mean_is_the_recursion_in_float64_and_a_frozen_parameter_is_its_own_mean():
    layout, state, _, place_batch = tiny.parts()
    optimizer = make_optimizer(AdamW(), SPECS)
    guards = Safeguards(averaging=Ema(decay=0.7))
    spec = StepSpec(tiny.MODEL, NextToken(), Compute(), tiny.B, tiny.S, 1, ("blocks/*/q",), 3)
    step = make_step(spec, optimizer, layout, safeguards=guards)
    state, _ = guards.begin(state, layout, optimizer.specs)
    expected = {p: np.asarray(x, np.float64) for p, x in flatten(state.params).items()}
    with jax.set_mesh(layout.mesh):
        for i in range(40, 46):
            state, _ = step(state, place_batch(tiny.batch(i)), StepArguments(np.float32(1e-1), step=np.uint32(i)))
            d = min(0.7, (1 + i) / (10 + i))
            expected = {
                p: d * e + (1 - d) * np.asarray(flatten(state.params)[p], np.float64) for p, e in expected.items()
            }
    for path, mean in flatten(state.mean).items():
        np.testing.assert_allclose(mean, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
        assert mean.dtype == jnp.float32
        assert np.array_equal(mean, flatten(state.params)[path]) == (path == "blocks/dense/q"), path
