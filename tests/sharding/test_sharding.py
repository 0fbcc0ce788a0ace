"""Eight devices give what one gives, and every leaf lies where a hand-written table says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig, forward, init_params, param_specs, uniform_layers
from jaxpt.models.specs import flatten
from jaxpt.sharding import batch_sharding, make_mesh, param_shardings, partition_specs
from tests.models.tiny import config, random_params

MESHES = [
    {"fsdp": 8},
    {"data": 8},
    {"data": 2, "fsdp": 4},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"fsdp": 4, "tensor": 2},
    {"data": 4, "tensor": 2},
]
MODELS = {
    "grouped": config(embed=32, heads=4, kv_heads=2, vocab_size=64),
    "qwen_like": config(
        embed=32,
        heads=14,
        kv_heads=2,
        head_dim=4,
        vocab_size=61,
        qkv_bias=True,
        tie_embeddings=True,
        layers=uniform_layers(2),
    ),
}
TOKENS = jax.random.randint(jax.random.key(5), (8, 16), 0, 61)
SEGMENTS = jnp.where(jnp.arange(16) < 7, 1, 2) * jnp.ones((8, 1), jnp.int32)


def loss(c, params, tokens, segments):
    logits = jax.nn.log_softmax(forward(c, params, tokens, segments))
    return -jnp.mean(jnp.take_along_axis(logits[:, :-1], tokens[:, 1:, None], -1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", MESHES, ids=lambda m: "x".join(f"{k}{v}" for k, v in m.items()))
def test_loss_and_gradients_of_one_device_on_any_mesh(name, shape):
    c = MODELS[name]
    params = random_params(c)
    want, want_grads = jax.jit(jax.value_and_grad(lambda p: loss(c, p, TOKENS, SEGMENTS)))(params)
    mesh = make_mesh(shape)
    odd = ["embed/table"] if c.vocab_size % 2 else []
    where = param_shardings(param_specs(c), mesh, allow_replicated=odd)
    batch = batch_sharding(mesh)
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(lambda p, t, s: loss(c, p, t, s)),
            in_shardings=(where, batch, batch),
            out_shardings=(None, where),
        )
        got, grads = step(jax.device_put(params, where), *jax.device_put((TOKENS, SEGMENTS), batch))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for path, g in flatten(grads).items():
        scale = float(jnp.abs(flatten(want_grads)[path]).max())
        np.testing.assert_allclose(g, flatten(want_grads)[path], rtol=1e-4, atol=2e-5 * scale, err_msg=path)


def test_every_leaf_of_the_compiled_program_lies_where_the_table_says():
    c = MODELS["grouped"]
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    where = param_shardings(param_specs(c), mesh)
    table = {
        "embed/table": P("tensor", "fsdp"),
        "blocks/dense/attn_norm": P(),
        "blocks/dense/mlp_norm": P(),
        "blocks/dense/q": P(None, "fsdp", "tensor"),
        "blocks/dense/k": P(None, "fsdp", "tensor"),
        "blocks/dense/v": P(None, "fsdp", "tensor"),
        "blocks/dense/o": P(None, "tensor", None, "fsdp"),
        "blocks/dense/gate": P(None, "fsdp", "tensor"),
        "blocks/dense/up": P(None, "fsdp", "tensor"),
        "blocks/dense/down": P(None, "tensor", "fsdp"),
        "final_norm": P(),
        "head": P("fsdp", "tensor"),
    }
    shapes = {p: s.shape for p, s in flatten(param_specs(c)).items()}
    abstract = jax.tree.map(
        lambda spec, sh: jax.ShapeDtypeStruct(spec.shape, jnp.float32, sharding=sh), param_specs(c), where,
        is_leaf=lambda x: hasattr(x, "axes"),
    )  # fmt: skip
    tokens = jax.ShapeDtypeStruct((8, 16), jnp.int32, sharding=batch_sharding(mesh))
    with jax.set_mesh(mesh):
        compiled = (
            jax.jit(jax.grad(lambda p, t: loss(c, p, t, None)), out_shardings=where).lower(abstract, tokens).compile()
        )
    for tree in (compiled.input_shardings[0][0], compiled.output_shardings):
        got = flatten(tree)
        assert got.keys() == table.keys()
        for path, sharding in got.items():
            want = jax.sharding.NamedSharding(mesh, table[path])
            assert sharding.is_equivalent_to(want, len(shapes[path])), (path, sharding.spec)


def test_sharded_init_draws_the_values_of_one_device_without_a_full_copy():
    c = MODELS["grouped"]
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    where = param_shardings(param_specs(c), mesh)
    sharded, whole = flatten(init_params(c, 0, where)), flatten(init_params(c, 0))
    for path, leaf in sharded.items():
        np.testing.assert_array_equal(leaf, whole[path], err_msg=path)
        assert leaf.sharding.is_equivalent_to(flatten(where)[path], leaf.ndim)
    q = sharded["blocks/dense/q"]
    assert {s.data.size for s in q.addressable_shards} == {q.size // 8}


def test_a_dimension_its_mesh_axis_does_not_divide_is_an_error_naming_both():
    c = MODELS["qwen_like"]
    mesh = make_mesh({"fsdp": 2, "tensor": 4})
    with pytest.raises(
        JaxptError, match=r"embed/table: its axis 'vocab' of length 61 is not divided by the mesh axis 'tensor'"
    ):
        partition_specs(param_specs(c), mesh)
    split = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias")
    allowed = ["embed/table", *(f"blocks/dense/{n}" for n in split)]
    specs = flatten(partition_specs(param_specs(c), mesh, allow_replicated=allowed))
    assert specs["blocks/dense/k"] == P(None, "fsdp")
    assert specs["embed/table"] == P(None, "fsdp")


def test_rules_that_collide_or_name_nothing_are_refused():
    specs = param_specs(MODELS["grouped"])
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    with pytest.raises(JaxptError, match="two of its axes"):
        partition_specs(specs, mesh, {"embed": "fsdp", "mlp": "fsdp"})
    with pytest.raises(JaxptError, match=r"sharding.rules.embed is 'fdsp'"):
        partition_specs(specs, mesh, {"embed": "fdsp"})
    with pytest.raises(JaxptError, match="names 'blocks/q', which is not a parameter"):
        partition_specs(specs, mesh, allow_replicated=["blocks/q"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"fdsp": 8}, "did you mean 'fsdp'"),
        ({"fsdp": 3}, "needs 3 devices, there are 8"),
        ({"fsdp": -1, "data": -1}, "only one axis may be -1"),
        ({"tensor": 0}, "tensor is 0, it must be at least 1"),
        ({"context": 2, "fsdp": -1}, r"sharding.mesh.context is 2: context parallelism is not built yet"),
        ({"stage": 8}, r"sharding.mesh.stage is 8: pipeline parallelism is not built yet"),
        ({"stage": -1}, r"sharding.mesh.stage is -1: pipeline parallelism is not built yet"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(shape, message):
    with pytest.raises(JaxptError, match=message):
        make_mesh(shape)


def test_a_length_of_one_stays_legal_for_an_axis_that_nothing_is_built_for():
    assert make_mesh({"stage": 1, "context": 1, "fsdp": -1}).shape["fsdp"] == 8  # as older configs have it


def test_the_rest_of_the_devices_go_to_the_axis_marked_so():
    assert make_mesh({"tensor": 2, "fsdp": -1}).shape["fsdp"] == 4
    assert make_mesh().shape["fsdp"] == 8


def test_a_model_of_published_size_divides_over_a_pod_by_the_same_rules():
    from jaxpt.models.presets import preset

    c: ModelConfig = preset("llama3-8b")
    abstract = jax.sharding.AbstractMesh((1, 1, 32, 1, 1, 8), ("data", "stage", "fsdp", "expert", "context", "tensor"))
    specs = flatten(partition_specs(param_specs(c), abstract))
    assert specs["blocks/dense/gate"] == P(None, "fsdp", "tensor")
