"""Rows reach their experts' devices and come back bit for bit; a wrong exchange is caught, in each direction."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpt.errors import JaxptError
from jaxpt.kernels.exchange import IMPLEMENTATIONS, ExchangeCall, choose, padded, ragged
from jaxpt.kernels.exchange.call import call_of
from jaxpt.kernels.exchange.comparison import compare, differences, facts
from jaxpt.planning import topology_devices
from jaxpt.sharding import make_mesh
from tests.kernels.ragged_on_cpu import ragged_by_gathering

TPU = ExchangeCall(4096, 2048, 8, 4, "bfloat16", (("expert", 4),), "tpu", "TPU v5 lite")


def compared(name, mesh=(("fsdp", 2), ("expert", 4)), dtype="bfloat16"):
    shape = dict(mesh)
    count = shape["expert"] * shape.get("fsdp", 1)
    with jax.set_mesh(make_mesh(shape, jax.devices()[:count])):
        return compare(name, call_of(48, 6, 3, shape["expert"], dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("mesh", [(("fsdp", 2), ("expert", 4)), (("expert", 2),)], ids=str)
def test_the_padded_exchange_is_exact(mesh, dtype):
    assert compared("padded", mesh, dtype).reason is None


@pytest.mark.parametrize("forgotten", [False, True])
def test_the_ragged_exchange_is_exact_where_each_sender_has_a_place_of_its_own(monkeypatch, forgotten):
    send = ragged_by_gathering
    if forgotten:  # every sender's rows at the receiver's first place
        send = lambda a, b, c, d, e, f, **k: ragged_by_gathering(a, b, c, d, 0 * e, f, **k)  # noqa: E731
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", send)
    assert (compared("ragged").reason is not None) == forgotten


@jax.custom_vjp
def without_gradient(x):
    return x


without_gradient.defvjp(lambda x: (x, None), lambda _, dy: (jnp.where(jnp.arange(len(dy))[:, None] == 3, 0, dy),))


def one_expert_on(arrived, rows):
    return dataclasses.replace(arrived, expert=(arrived.expert + 1) % 3)


def row_lost_on_the_way_back(arrived, rows):
    return dataclasses.replace(arrived, back=lambda out: arrived.back(out.at[1].set(0)))


def gradient_of_a_row_lost(arrived, rows):
    return dataclasses.replace(arrived, rows=without_gradient(arrived.rows))


@pytest.mark.parametrize(
    ("spoil", "part"),
    [(one_expert_on, "out"), (row_lost_on_the_way_back, "out"), (gradient_of_a_row_lost, "gradient")],
)
def test_a_wrong_exchange_is_caught_by_what_is_wrong(monkeypatch, spoil, part):
    run = lambda rows, sizes, came: spoil(padded.run(rows, sizes, came), rows)  # noqa: E731
    monkeypatch.setitem(IMPLEMENTATIONS, "planted", SimpleNamespace(refuses=lambda call: None, run=run))
    found = compared("planted")
    assert f"% of the {part}" in found.reason
    assert found.errors[part] > 0
    if part == "gradient":
        assert found.errors["out"] == 0


def test_each_platform_takes_the_first_that_applies():
    assert choose(TPU).name == "ragged"
    assert choose(dataclasses.replace(TPU, platform="gpu")).name == "padded"
    assert choose(dataclasses.replace(TPU, platform="gpu"), ("ragged", "padded")).name == "ragged"
    assert choose(dataclasses.replace(TPU, platform="cpu"), ("ragged", "padded")).words == (
        "padded; not ragged: XLA has none for CPUs"
    )
    with pytest.raises(JaxptError, match="'ragged' does not apply: XLA has none for CPUs; use auto or padded"):
        choose(dataclasses.replace(TPU, platform="cpu"), ("ragged",))


def test_a_verdict_depends_on_the_whole_mesh():
    other = dataclasses.replace(TPU, mesh=(("fsdp", 2), ("expert", 4)))
    assert facts(TPU) != facts(other)
    assert ragged.refuses(TPU) is None


@pytest.mark.slow
@pytest.mark.tpu
def test_the_ragged_exchange_and_its_gradient_compile_for_a_tpu():
    pytest.importorskip("libtpu")
    mesh = Mesh(np.array(topology_devices("v5e:2x2")), ("expert",), axis_types=(jax.sharding.AxisType.Auto,))
    key = jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        call = call_of(1024, 256, 2, 4, "bfloat16")
        chosen = choose(call).name
        program = jax.jit(lambda k: differences(chosen, call, jax.random.wrap_key_data(k))).lower(key).compile()
    assert chosen == "ragged"
    assert program.as_text().count("ragged-all-to-all") >= 4
