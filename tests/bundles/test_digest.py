"""A digest is the same on every mesh and another for every flipped bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.bundles import digest
from jaxpt.bundles.digest import scan
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


def test_a_scan_names_each_layer_that_holds_nan_or_an_infinity_on_any_mesh():
    values = params()
    assert scan(values).not_finite == []
    values["blocks"]["dense"]["q"][1, 3, 2, 0] = np.nan
    values["blocks"]["dense"]["q"][2, 15, 3, 1] = -np.inf
    values["final_norm"][7] = np.inf
    want = ["blocks/dense/q, layer 1", "blocks/dense/q, layer 2", "final_norm"]
    assert scan(values).not_finite == want
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    spread = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    values["blocks"]["dense"]["q"] = jax.device_put(values["blocks"]["dense"]["q"], spread)
    assert scan(values).not_finite == want


def test_the_largest_finite_numbers_and_integers_are_finite():  # the proof above can fail
    largest = [np.finfo(np.float32).max, np.finfo(np.float32).min, np.finfo(np.float32).tiny / 4, -0.0]
    assert scan({"a": np.array(largest, np.float32), "b": np.full(3, -1, np.int32)}).not_finite == []


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, jnp.float8_e5m2])
def test_values_that_are_not_finite_are_noticed_in_every_dtype(dtype):
    assert scan({"a": np.ones((4, 4), dtype)}).not_finite == []
    for odd in (np.inf, -np.inf, np.nan):
        assert scan({"a": jnp.ones((4, 4), dtype).at[2, 2].set(odd), "b": jnp.float32(odd)}).not_finite == ["a", "b"]


def test_digests_are_those_that_earlier_versions_wrote():
    values = {"blocks": {"q": np.arange(12, dtype=np.float32).reshape(2, 3, 2)}, "norm": np.ones(5, np.float32)}
    assert digest(values) == {
        "blocks/q": ["0193f9b38075eca8", "e19caeb2f2abf465"],
        "norm": ["4e8371d71fca7a9f"],
    }
