"""A head split over its vocabulary stays split: the compiled steps' collectives, plain and distilled."""

import os
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.models import Compute
from jaxpt.models.batch import kinds
from jaxpt.models.specs import map_specs, param_specs
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import abstract_arguments
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import abstract_state, make_layout, with_shardings
from jaxpt.training.step import StepSpec, make_step
from tests.training import tiny

V = 4096
MODEL = tiny.MODEL.replace(vocab_size=V)
TEACHER = MODEL.replace(embed=24, kv_heads=4)
OPERATION = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


@pytest.fixture(scope="module", autouse=True)
def optimised():
    """Compiled as users compile."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")


def wide(program):
    """(operation, dimensions) of each array with an edge of V / 2 or more that a collective of `program` yields."""
    out = []
    for shape, operation in OPERATION.findall(program):
        for dims in re.findall(r"\[([\d,]*)\]", shape):
            sizes = tuple(int(n) for n in dims.split(",") if n)
            out += [(operation, sizes)] if sizes and max(sizes) >= V // 2 else []
    return out


def compiled(objective):
    """The text of a step on {fsdp 4, tensor 2}."""
    layout = make_layout(MODEL, ShardingConfig(mesh={"fsdp": 4, "tensor": 2}), jax.devices()[:8])
    optimizer = make_optimizer(AdamW(), param_specs(MODEL))
    step = make_step(
        StepSpec(MODEL, objective, Compute(), 8, 16, 1, (), 3),
        optimizer,
        layout,
        frozen={"teacher": TEACHER} if objective.frozen() else {},
    )
    specs, where = param_specs(TEACHER), batch_sharding(layout.mesh)
    shapes = map_specs(lambda path, s: jax.ShapeDtypeStruct(s.shape, jnp.float32), specs)
    teacher = {"teacher": with_shardings(shapes, layout.of(specs))} if objective.frozen() else {}
    batch = {k: jax.ShapeDtypeStruct(v.shape(8, 16), v.dtype, sharding=where) for k, v in kinds().items()}
    with jax.set_mesh(layout.mesh):
        state = abstract_state(MODEL, optimizer, layout)
        return step.lower(state, batch, abstract_arguments(objective, teacher)).compile().as_text()


@pytest.mark.slow
def test_no_collective_gathers_all_logits_or_a_whole_head():
    plain, distilled = (wide(compiled(o)) for o in (NextToken(chunk=4), Distill(teacher="any", chunk=4)))
    share = {
        (V // 2, MODEL.embed),
        (V // 2, TEACHER.embed),
    }  # of a table, along fsdp: what a tensor device computes with
    assert {sizes for _, sizes in [*plain, *distilled]} <= share
    more = [sizes for _, sizes in distilled if sizes[1] == TEACHER.embed]
    assert len(more) <= 2  # its embedding and its head
    assert len(distilled) - len(more) <= len(plain) + 1


def test_a_gather_of_logits_would_be_seen():  # the proof above can fail
    mesh = make_layout(MODEL, ShardingConfig(mesh={"fsdp": 4, "tensor": 2}), jax.devices()[:8]).mesh
    split, whole = (NamedSharding(mesh, PartitionSpec("fsdp", None, axis)) for axis in ("tensor", None))
    logits = jax.ShapeDtypeStruct((8, 4, V), jnp.float32, sharding=split)
    program = jax.jit(lambda x: x + 1, out_shardings=whole).lower(logits).compile().as_text()
    assert wide(program) == [("all-gather", (2, 4, V))]
