"""A digest is the same on every mesh and another for every flipped bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.bundles import digest
from jaxpt.sharding import make_mesh


def params(dtype=np.float32):
    rng = np.random.default_rng(0)
    make = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    return {"embed": {"table": make(24, 16)}, "blocks": {"dense": {"q": make(3, 16, 4, 2)}}, "final_norm": make(16)}


def test_shards_on_any_mesh_and_host_arrays_have_one_digest():
    values = params()
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    put = lambda x, *names: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*names)))  # noqa: E731
    sharded = {
        "embed": {"table": put(values["embed"]["table"], "tensor", "fsdp")},
        "blocks": {"dense": {"q": put(values["blocks"]["dense"]["q"], None, "fsdp", "tensor")}},
        "final_norm": put(values["final_norm"]),
    }
    assert digest(sharded) == digest(values)
    assert [len(v) for v in digest(values).values()] == [1, 3, 1]


def test_one_flipped_bit_changes_the_digest_of_its_layer_alone():
    before, values = digest(params()), params()
    bits = values["blocks"]["dense"]["q"].view(np.uint32)
    rng = np.random.default_rng(1)
    for _ in range(20):
        where, bit = (1, *(int(rng.integers(n)) for n in (16, 4, 2))), np.uint32(1) << np.uint32(rng.integers(32))
        bits[where] ^= bit
        now = digest(values)
        bits[where] ^= bit
        assert now["blocks/dense/q"][1] != before["blocks/dense/q"][1]
        assert now["blocks/dense/q"][::2] == before["blocks/dense/q"][::2]
        assert now["embed/table"] == before["embed/table"]


def test_swapping_two_entries_changes_the_digest():
    values = params()
    before = digest(values)
    values["final_norm"][[2, 5]] = values["final_norm"][[5, 2]]
    assert digest(values)["final_norm"] != before["final_norm"]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_halves_have_digests_too(dtype):
    assert digest(params(dtype)) == digest(params(dtype))
    assert digest(params(dtype)) != digest(params())
