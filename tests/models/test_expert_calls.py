"""The products that a plan lists for the experts are those that the forward pass makes, on any mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.kernels.exchange import dispatch as exchange_dispatch
from jaxpt.kernels.grouped import dispatch
from jaxpt.models import Compute, forward
from jaxpt.models.expert_calls import describe_exchange_choice, describe_expert_choice, exchange_calls, expert_calls
from jaxpt.sharding import make_mesh
from tests.models.tiny import VARIANTS, config, random_params

MOE = VARIANTS["moe"]


@pytest.mark.parametrize(
    "mesh", [{"fsdp": 1}, {"fsdp": 4, "tensor": 2}, {"expert": 2, "fsdp": 2}, {"fsdp": 8}, {"tensor": 2}], ids=str
)
@pytest.mark.parametrize("rows", [4, 8])
def test_they_are_the_calls_of_the_forward_pass(monkeypatch, mesh, rows):
    made, sent = noted(monkeypatch, dispatch), noted(monkeypatch, exchange_dispatch)
    params, tokens = jax.eval_shape(lambda: random_params(MOE)), jax.ShapeDtypeStruct((rows, 12), jnp.int32)
    with jax.set_mesh(make_mesh(mesh, jax.devices()[: int(np.prod(list(mesh.values())))])):
        jax.eval_shape(lambda p, t: forward(MOE, p, t), params, tokens)
        listed = expert_calls(MOE, Compute(), rows, 12)
        travelling = exchange_calls(MOE, Compute(), rows, 12)
    assert {call for (call,) in listed} == made
    assert made
    assert {call for (call,) in travelling} == sent
    assert bool(sent) == ("expert" in mesh)


def noted(monkeypatch, dispatch):
    """The calls that a choice is made for, as they are made."""
    made, choose = set(), dispatch.choose
    monkeypatch.setattr(dispatch, "choose", lambda call, names=(): made.add(call) or choose(call, names))
    return made


def test_models_without_dropless_experts_make_none():
    assert expert_calls(config(), Compute(), 4, 12) == {}
    boxes = dataclasses.replace(MOE, moe=dataclasses.replace(MOE.moe, capacity_factor=1.0))
    assert expert_calls(boxes, Compute(), 4, 12) == {}


def test_a_line_says_what_computes_them():
    (call,), layers = next(iter(expert_calls(MOE, Compute(dtype="bfloat16"), 4, 12).items()))
    shape = f"{call.groups} of {call.width_in} × {call.width_out}, {call.rows} rows, bfloat16"
    assert describe_expert_choice(call, layers).endswith(f"({shape}): tiled")
    on_gpu = dataclasses.replace(call, platform="gpu", device_kind="NVIDIA A100-SXM4-80GB")
    want = "ragged_dot; not mosaic: it needs Hopper, this is NVIDIA A100-SXM4-80GB"
    assert describe_expert_choice(on_gpu, layers).endswith(want)


def test_a_line_says_how_tokens_travel():
    with jax.set_mesh(make_mesh({"expert": 2}, jax.devices()[:2])):
        (call,), layers = next(iter(exchange_calls(MOE, Compute(dtype="bfloat16"), 4, 12).items()))
        shape = f"{call.rows} rows of {call.width} from each of 2 devices, bfloat16"
        assert describe_exchange_choice(call, layers).endswith(f"({shape}): padded")
