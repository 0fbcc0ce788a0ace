"""LLaMA Pro's freeze rules in a training step: the new block learns, every other number stays as it was."""

import jax
import numpy as np

from jaxpt.models import Compute, flatten, param_specs
from jaxpt.optim.optimizers import make_optimizer
from jaxpt.reshape.apply import apply
from jaxpt.reshape.grow import llama_pro
from jaxpt.sharding import batch_sharding
from jaxpt.training.batches import place
from jaxpt.training.config import ObjectiveConfig, OptimizerConfig, ShardingConfig
from jaxpt.training.state import make_layout, new_opt_state, state_shardings
from jaxpt.training.step import StepSpec, make_step
from tests.training import tiny


def trained(config, params, freeze, steps=3):
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(OptimizerConfig(), param_specs(config))
    spec = StepSpec(config, ObjectiveConfig(), Compute(), tiny.B, tiny.S, 1, tuple(freeze), 1.0, 3)
    step = make_step(spec, optimizer, layout)
    params = jax.tree.map(jax.device_put, jax.tree.map(np.copy, params), layout.params)
    state = {
        "params": params,
        "opt_state": new_opt_state(optimizer, params, state_shardings(layout, optimizer, params)),
    }
    with jax.set_mesh(layout.mesh):
        for i in range(steps):
            state, _ = step(state, place(tiny.batch(i), batch_sharding(layout.mesh), tiny.B), np.float32(1e-2))
    return flatten(jax.device_get(state["params"]))


def test_only_the_new_block_changes_and_without_the_rules_everything_does():
    rewrite = llama_pro(tiny.MODEL, 1)
    (new,) = rewrite.entry["options"]["blocks"]
    start = apply(rewrite, tiny.PARAMS)
    old = flatten(start)
    frozen, free = (trained(rewrite.target, start, rules) for rules in (rewrite.entry["freeze"], ()))
    for path, leaf in frozen.items():
        if not path.startswith("blocks/"):
            np.testing.assert_array_equal(leaf, old[path], err_msg=path)
            assert not np.array_equal(free[path], old[path]), path
            continue
        changed = [not np.array_equal(leaf[l], old[path][l]) for l in range(len(leaf))]
        assert changed == [l == new for l in range(len(leaf))], path
    assert any(not np.array_equal(free["blocks/dense/q"][l], old["blocks/dense/q"][l]) for l in range(2))
