"""Plans on eight devices: same result as on the host, and no device ever holds a full copy of what is split."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models import ModelConfig, flatten, param_specs, unflatten, uniform_layers
from jaxpt.reshape.apply import apply, leaf_tables, make_leaf
from jaxpt.reshape.axes import duplicate, pad
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.grow import aki, fpi, llama_pro
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.subclone import random_init, subclone_plan
from jaxpt.reshape.upcycle import Upcycling, upcycle
from jaxpt.sharding import make_mesh, param_shardings
from tests.reshape.proofs import random_params

BIG = ModelConfig(96, 64, 8, 4, 16, 128, uniform_layers(4), qkv_bias=True, qk_norm="head")
SMALL = {"embed": 32, "heads": 4, "kv_heads": 4, "mlp": 64, "layers": 2}


def plans(c, p):
    s = weight_scores(InMemory(c, p))
    return {
        "subclone": subclone_plan(c, SMALL, s, scaling="fan_in"),
        "uniform": subclone_plan(c, SMALL, selection="uniform"),
        "random": random_init(c, SMALL, 3),
        "duplicate": duplicate(c, "embed", np.arange(128) % 64),
        "pad": pad(c, "mlp", 160),
        "fpi": fpi(c, "heads", 16, 1, noise=0.1),
        "aki": aki(c, 160, 1),
        "llama_pro": llama_pro(c, 2),
        "upcycle": upcycle(c, Upcycling(4, 2, granularity=2, keep=0.6), layers=[1, 3]),
    }


def placed(c, p, mesh):
    return jax.tree.map(jax.device_put, p, param_shardings(param_specs(c), mesh))


@pytest.mark.parametrize("shape", [{"fsdp": 8}, {"fsdp": 2, "tensor": 4}])
def test_every_transform_gives_the_host_result_on_a_mesh(shape):
    p = random_params(BIG)
    mesh = make_mesh(shape)
    sharded = placed(BIG, p, mesh)
    for name, plan in plans(BIG, p).items():
        where = param_shardings(param_specs(plan.target), mesh)
        out, want = flatten(apply(plan, sharded, where)), flatten(apply(plan, p))
        for path, leaf in out.items():
            assert leaf.sharding == flatten(where)[path], (name, path)
            np.testing.assert_allclose(leaf, want[path], rtol=1e-5, atol=1e-6, err_msg=f"{name} {path}")


def largest(compiled):
    """Entries of the largest array in a compiled per-device program."""
    shapes = re.findall(r"(?:f32|bf16)\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in s.split(",")])) for s in shapes)


def compiled(path, plan, p, mesh, *, place=True):
    spec, rule = plan.specs[path], plan.rules[path]
    to = flatten(param_shardings(param_specs(plan.target), mesh))[path]
    at = flatten(param_shardings(param_specs(plan.source), mesh))[path]
    leaf = flatten(p)[path]
    leaves = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)}
    make = make_leaf(path, spec, rule, jnp.float32, to if place else None)
    return jax.jit(make, out_shardings=to).lower(leaves, leaf_tables(spec, rule)).compile()


@pytest.mark.parametrize("shape", [{"fsdp": 8}, {"fsdp": 2, "tensor": 4}])
def test_no_device_holds_a_full_slice_of_what_is_split(shape):
    p = random_params(BIG)
    mesh = make_mesh(shape)
    plan = plans(BIG, p)["subclone"]
    for path in ("blocks/dense/q", "blocks/dense/o", "blocks/dense/up", "blocks/dense/down", "embed/table", "head"):
        leaf = flatten(p)[path]
        whole = leaf[0].size if plan.specs[path].stacked else leaf.size
        own = leaf.size // 8  # a device's own part of the input is there from the start
        assert largest(compiled(path, plan, p, mesh)) <= max(own, whole // 2), path


def test_a_program_that_gathers_everything_is_caught():  # the proof above can fail
    p = random_params(BIG)
    plan = plans(BIG, p)["subclone"]
    mesh = make_mesh({"fsdp": 8})
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    leaf = flatten(p)["blocks/dense/up"]
    gather = jax.jit(lambda x: jax.lax.with_sharding_constraint(x, whole) * 2, out_shardings=whole)
    at = flatten(param_shardings(param_specs(BIG), mesh))["blocks/dense/up"]
    lowered = gather.lower(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)).compile()
    assert largest(lowered) > max(leaf.size // 8, leaf[0].size // 2)
    del plan


def test_moments_follow_on_a_mesh():
    p = random_params(BIG)
    mesh = make_mesh({"fsdp": 8})
    plan = plans(BIG, p)["subclone"]
    where = param_shardings(param_specs(plan.target), mesh)
    out, want = apply(plan, placed(BIG, p, mesh), where, moment=2), apply(plan, p, moment=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), out, want)
    assert unflatten(flatten(out)).keys() == out.keys()
