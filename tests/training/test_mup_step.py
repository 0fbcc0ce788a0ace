"""A train step under µP: at the base shape the same in every bit, at another one not."""

import jax
import numpy as np

from jaxpt.config.schema import build
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import RunConfig
from jaxpt.training.program import drawn_state, make_program
from jaxpt.training.run_plan import make_plan
from tests.training.feed import MadeSource
from tests.training.run_made import CONFIG
from tests.training.tiny import batch

BASE = {"embed": 16, "heads": 2, "mlp": 32, "layers": 2}


def stepped(**changes):
    """Parameters before and after one step of a run drawn from its seed."""
    plan = make_plan(build(RunConfig, {**CONFIG, **changes}), {"a": MadeSource(), "b": MadeSource()})
    program = make_program(plan, jax.devices()[:1])
    first = drawn_state(plan, program)
    before = jax.device_get(first.params)
    mesh = program.layout.mesh
    with jax.set_mesh(mesh):
        data = place({**batch(), "source_id": np.arange(8, dtype=np.int32) % 2}, batch_sharding(mesh), 8)
        after, _ = program.steps[plan.stages[0].step](first, data, StepArguments(np.float32(1e-2)))
    return before, jax.device_get(after)


def test_at_the_base_shape_a_run_is_standard_parameterisation_bit_for_bit():
    standard, mup = stepped(), stepped(mup={"base": BASE})
    jax.tree.map(np.testing.assert_array_equal, standard, mup)
    before, after = stepped(mup={"base": {**BASE, "mlp": 16}})  # the proof above can fail
    assert not np.array_equal(before["blocks"]["dense"]["down"], standard[0]["blocks"]["dense"]["down"])
    moved, wanted = (
        np.abs(a.params["blocks"]["dense"]["down"] - b["blocks"]["dense"]["down"]).mean()
        for b, a in ((before, after), standard)
    )
    assert 0.3 < moved / wanted < 0.7  # η / 2
