"""A NaN on one device of eight: every device leaves the step out."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpt.models.compute import Compute
from jaxpt.models.specs import flatten, param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.averagings.ema import Ema
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.clippings.none import GlobalNormOnly
from jaxpt.optim.guards.finite import Finite
from jaxpt.optim.guards.observe import Observe
from jaxpt.optim.optimizer import Optimizer
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.safeguards import Safeguards
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from tests.training import tiny


@dataclass(frozen=True)
class OneMean(Optimizer):
    """A mean of gradients."""

    planted: bool = False

    def core(self, specs):
        """With `planted`, the third update is NaN in the last row of each matrix, which lies on one device."""

        def first(params):
            return optax.EmaState(jnp.int32(0), jax.tree.map(jnp.zeros_like, params))

        def update(grads, state, params=None):
            mean = jax.tree.map(lambda m, g: 0.9 * m + g, state.ema, grads)
            odd = lambda m: jnp.where(state.count == 2, m.at[-1].set(jnp.nan), m) if m.ndim > 1 else m  # noqa: E731
            return jax.tree.map(odd, mean) if self.planted else mean, optax.EmaState(state.count + 1, mean)

        return optax.GradientTransformation(first, update)


def same(a, b):
    a, b = (flatten(jax.device_get(tree)) for tree in (a, b))
    return all(np.array_equal(a[p], b[p], equal_nan=False) for p in a)


def run(guard, where):
    """Three steps on eight devices; the states after the second and the third."""
    layout = make_layout(tiny.MODEL, ShardingConfig(mesh={"fsdp": 8}), jax.devices()[:8])
    optimizer = make_optimizer(OneMean(planted=where == "update"), param_specs(tiny.MODEL))
    guards = Safeguards(guard, GlobalNormOnly(), Ema())
    spec = StepSpec(tiny.MODEL, NextToken(), Compute(), tiny.B, tiny.S, 1, (), 3)
    step = make_step(spec, optimizer, layout, safeguards=guards)
    params = jax.tree.map(jax.device_put, jax.tree.map(np.copy, tiny.PARAMS), layout.params)
    state, _ = guards.begin(new_state(layout, optimizer, params), layout, optimizer.specs)
    before = None
    with jax.set_mesh(layout.mesh):
        for i in range(3):
            batch = tiny.batch(i)
            if where == "batch" and i == 2:
                batch["loss_weights"][5, 3] = np.nan  # a row that lies on the sixth device alone
            before = jax.device_get(state)
            placed = place(batch, batch_sharding(layout.mesh), tiny.B)
            state, values = step(state, placed, StepArguments(np.float32(1e-2), step=np.uint32(i)))
    return before, state, values


@pytest.mark.parametrize("where", ["batch", "update"])
def test_a_nan_on_one_device_of_eight_moves_nothing_on_any(where):
    before, after, values = run(Finite(), where)
    assert bool(values["skipped"])
    for item in ("params", "opt_state", "mean"):
        assert same(before.to_items()[item], after.to_items()[item]), item
    table = after.mean["embed"]["table"]
    assert table.sharding == after.params["embed"]["table"].sharding
    assert len({str(s.index) for s in table.addressable_shards}) == 8
    for shard in after.guard["guard"]["skipped"].addressable_shards:
        assert int(shard.data) == 1


@pytest.mark.parametrize("where", ["batch", "update"])
def test_without_protection_it_reaches_the_parameters(where):
    before, after, values = run(Observe(), where)
    assert not bool(values["skipped"])
    assert not all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(after.params)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(before.params))
