"""LLaMA Pro's freeze rules in a training step: the new block learns, every other number stays as it was."""

import jax
import numpy as np

from jaxpt.models import Compute, flatten, param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.reshape.apply import apply
from jaxpt.reshape.grow import llama_pro
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from tests.training import tiny


def trained(config, params, freeze, steps=3):
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(config))
    spec = StepSpec(config, NextToken(), Compute(), tiny.B, tiny.S, 1, tuple(freeze), 3)
    step = make_step(spec, optimizer, layout)
    params = jax.tree.map(jax.device_put, jax.tree.map(np.copy, params), layout.params)
    state = new_state(layout, optimizer, params)
    with jax.set_mesh(layout.mesh):
        for i in range(steps):
            batch = place(tiny.batch(i), batch_sharding(layout.mesh), tiny.B)
            state, _ = step(state, batch, StepArguments(np.float32(1e-2)))
    return flatten(jax.device_get(state.params))


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
