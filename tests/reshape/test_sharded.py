"""Plans on eight devices: same result as on the host, and no device ever holds a full copy of what is split."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models import ModelConfig, flatten, param_specs, unflatten, uniform_layers
from jaxpt.reshape.apply import apply, leaf_tables, make_leaf, make_slice
from jaxpt.reshape.axes import duplicate, pad, select
from jaxpt.reshape.compensate import compensated
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.depth import drop_layers
from jaxpt.reshape.grow import aki, fpi, llama_pro
from jaxpt.reshape.merge import merge_kv
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.subclone import random_init, subclone_rewrite
from jaxpt.reshape.upcycle import Upcycling, upcycle
from jaxpt.sharding import make_mesh, param_shardings
from tests.reshape.proofs import random_params

BIG = ModelConfig(96, 64, 8, 4, 16, 128, uniform_layers(4), qkv_bias=True, qk_norm="head")
SMALL = {"embed": 32, "heads": 4, "kv_heads": 4, "mlp": 64, "layers": 2}


def rewrites(c, p):
    s = weight_scores(InMemory(c, p))
    return {
        "subclone": subclone_rewrite(c, SMALL, s, scaling="fan_in"),
        "uniform": subclone_rewrite(c, SMALL, selection="uniform"),
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


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"fsdp": 8}, {"fsdp": 2, "tensor": 4}])
def test_every_transform_gives_the_host_result_on_a_mesh(shape):
    p = random_params(BIG)
    mesh = make_mesh(shape)
    sharded = placed(BIG, p, mesh)
    for name, rewrite in rewrites(BIG, p).items():
        where = param_shardings(param_specs(rewrite.target), mesh)
        out, want = flatten(apply(rewrite, sharded, where)), flatten(apply(rewrite, p))
        for path, leaf in out.items():
            assert leaf.sharding == flatten(where)[path], (name, path)
            np.testing.assert_allclose(leaf, want[path], rtol=1e-5, atol=1e-6, err_msg=f"{name} {path}")


def largest(compiled):
    """Entries of the largest array in a compiled per-device program."""
    shapes = re.findall(r"(?:f32|bf16)\[([\d,]+)\]", compiled.as_text())
    return max(int(np.prod([int(n) for n in s.split(",")])) for s in shapes)


def compiled(path, rewrite, p, mesh):
    spec, rule = rewrite.specs[path], rewrite.rules[path]
    to = flatten(param_shardings(param_specs(rewrite.target), mesh))[path]
    at = flatten(param_shardings(param_specs(rewrite.source), mesh))[path]
    leaf = flatten(p)[path]
    leaves = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)}
    make = make_leaf(make_slice(path, spec, rule, jnp.float32, to), spec, rule)
    return jax.jit(make, out_shardings=to).lower(leaves, leaf_tables(spec, rule)).compile()


@pytest.mark.parametrize("shape", [{"fsdp": 8}, {"fsdp": 2, "tensor": 4}])
def test_no_device_holds_a_full_slice_of_what_is_split(shape):
    p = random_params(BIG)
    mesh = make_mesh(shape)
    rewrite = rewrites(BIG, p)["subclone"]
    for path in ("blocks/dense/q", "blocks/dense/o", "blocks/dense/up", "blocks/dense/down", "embed/table", "head"):
        leaf = flatten(p)[path]
        whole = leaf[0].size if rewrite.specs[path].stacked else leaf.size
        own = leaf.size // 8  # a device's own part of the input is there from the start
        assert largest(compiled(path, rewrite, p, mesh)) <= max(own, whole // 2), path


def test_a_program_that_gathers_everything_is_caught():  # the proof above can fail
    p = random_params(BIG)
    rewrite = rewrites(BIG, p)["subclone"]
    mesh = make_mesh({"fsdp": 8})
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    leaf = flatten(p)["blocks/dense/up"]
    gather = jax.jit(lambda x: jax.lax.with_sharding_constraint(x, whole) * 2, out_shardings=whole)
    at = flatten(param_shardings(param_specs(BIG), mesh))["blocks/dense/up"]
    lowered = gather.lower(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)).compile()
    assert largest(lowered) > max(leaf.size // 8, leaf[0].size // 2)
    del rewrite


def test_a_tied_bfloat16_model_gives_the_host_bits_on_a_mesh():
    c = BIG.replace(tie_embeddings=True, qkv_bias=False, qk_norm="none")
    p = jax.tree.map(lambda a: a.astype(jnp.bfloat16), random_params(c))
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    for rewrite in (subclone_rewrite(c, SMALL, selection="uniform"), merge_kv(c, 2), drop_layers(c, [1])):
        where = param_shardings(param_specs(rewrite.target), mesh)
        out, want = flatten(apply(rewrite, placed(c, p, mesh), where)), flatten(apply(rewrite, p))
        for path, leaf in out.items():
            assert leaf.dtype == jnp.bfloat16
            assert leaf.sharding == flatten(where)[path]
            np.testing.assert_array_equal(np.asarray(leaf), want[path], err_msg=path)


def test_compensation_on_a_mesh_needs_one_layers_matrix_at_a_time_and_no_full_slice():
    p, mesh = random_params(BIG), make_mesh({"fsdp": 8})
    matrix = np.random.default_rng(0).normal(size=(4, 32, 128)).astype(np.float32)
    asked = []

    class Matrices:
        """Matrices computed on demand, which remember what was asked for."""

        def __getitem__(self, layer):
            asked.append(layer)
            return matrix[layer]

    even = np.broadcast_to(np.arange(32) * 4, (4, 32))
    plain = select(BIG, "mlp", even).with_entry(layers=[0, 1, 2, 3])
    rewrite = compensated(plain, {"mlp": Matrices()})
    where = param_shardings(param_specs(rewrite.target), mesh)
    out = apply(rewrite, placed(BIG, p, mesh), where)
    assert asked == [0, 1, 2, 3]
    want = apply(compensated(plain, {"mlp": matrix}), p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), out, want)
    path = "blocks/dense/down"
    leaf, to = flatten(p)[path], flatten(where)[path]
    at = flatten(param_shardings(param_specs(BIG), mesh))[path]
    one = make_slice(path, rewrite.specs[path], rewrite.rules[path], jnp.float32, to)
    leaves = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)}
    program = jax.jit(lambda leaves, table: one(leaves, [[table]], 0)).lower(leaves, matrix[0]).compile()
    assert largest(program) <= leaf[0].size // 2


def test_moments_follow_on_a_mesh():
    p = random_params(BIG)
    mesh = make_mesh({"fsdp": 8})
    rewrite = rewrites(BIG, p)["subclone"]
    where = param_shardings(param_specs(rewrite.target), mesh)
    out, want = apply(rewrite, placed(BIG, p, mesh), where, moment=2), apply(rewrite, p, moment=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), out, want)
    assert unflatten(flatten(out)).keys() == out.keys()
