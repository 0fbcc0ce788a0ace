"""A teacher that does not fit beside its student: the plan says so and names the offline way, whatever the compiler."""

from types import SimpleNamespace

import jax
import pytest

import jaxpt
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.models import Model, init_params
from jaxpt.planning import compile as planning
from jaxpt.training.config import RunConfig
from jaxpt.training.frozen import pin_frozen, with_frozen
from jaxpt.training.run_plan import make_plan
from tests.training import run_made, tiny
from tests.training.feed import MadeSource


class TooLarge:
    """A step whose compiler finds no room for more than `room` bytes of frozen models."""

    def __init__(self, room):
        self.room, self.frozen = room, 0

    def lower(self, state, batch, arguments):
        self.frozen = planning.device_bytes(arguments.frozen)
        return self

    def compile(self):
        if self.frozen >= self.room:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: it is full")
        memory = SimpleNamespace(argument_size_in_bytes=1, alias_size_in_bytes=1, temp_size_in_bytes=1)
        shardings = ((None, None), {})
        return SimpleNamespace(memory_analysis=lambda: memory, as_text=lambda: "", input_shardings=shardings)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    bundle = tmp_path_factory.mktemp("teacher") / "b"
    jaxpt.save(Model(tiny.MODEL, init_params(tiny.MODEL, 0)), bundle)
    stage = {**run_made.STAGE, "duration": "2 steps", "objective": {"name": "distill", "teacher": str(bundle)}}
    config = build(RunConfig, {**run_made.CONFIG, "stages": [stage]})
    made = make_plan(config, {"a": MadeSource(), "b": MadeSource()})
    return with_frozen(made, pin_frozen(config.stages, None))


def refusal(plan, monkeypatch, room):
    monkeypatch.setattr(planning, "make_step", lambda *args, **kwargs: TooLarge(room))
    with pytest.raises(JaxptError) as error:
        planning.compile_step(plan, jax.devices()[:1])
    return str(error.value)


def test_a_teacher_that_does_not_fit_beside_the_student_is_named_with_the_offline_way(plan, monkeypatch):
    said = refusal(plan, monkeypatch, room=1)
    assert "does not fit the memory of a device" in said
    assert "it would without its teacher, 0 MiB a device beside the model: write its targets once with" in said
    assert "jaxpt distill-cache" in said


def test_where_the_student_alone_does_not_fit_either_the_usual_ways_are_named(plan, monkeypatch):
    said = refusal(plan, monkeypatch, room=0)
    assert "distill-cache" not in said
    assert "use more devices, --config.compute.remat=full or --config.stages[N].microbatches=M" in said


def test_what_frozen_models_take_of_a_device_is_said(plan, monkeypatch):
    monkeypatch.setattr(planning, "make_step", lambda *args, **kwargs: TooLarge(2**40))
    leaves = jax.tree.leaves(init_params(tiny.MODEL, 0))
    assert planning.compile_step(plan, jax.devices()[:1]).frozen == sum(4 * leaf.size for leaf in leaves)
