"""The comparison at a run's start: what is wrong is not taken, what was measured is remembered while it holds."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxpt.errors import JaxptError
from jaxpt.kernels import exchange, grouped, matmul
from jaxpt.kernels.attention import IMPLEMENTATIONS, PREFERENCES, Call, Logits, dispatch, xla
from jaxpt.kernels.comparison import Comparison
from jaxpt.kernels.exchange import padded
from jaxpt.kernels.grouped import dense
from jaxpt.kernels.matmul import fp8_emulated
from jaxpt.models.compute import Compute
from jaxpt.objectives.next_token import NextToken
from jaxpt.sharding import make_mesh
from jaxpt.training import kernels
from jaxpt.training.kernels import kernel_lines, verdict, with_kernels
from jaxpt.training.step import StepSpec
from tests.models.tiny import VARIANTS
from tests.training.tiny import MODEL

CALL, LOGITS = Call(4, 32, 32, 4, 2, 8, "float32", True), Logits(0.25)


def right(q, k, v, logits, segment_ids):
    return xla.run(q, k, v, logits, segment_ids)


def wrong(q, k, v, logits, segment_ids):
    return xla.run(q, k, v, logits, jnp.ones_like(segment_ids))


@dataclasses.dataclass(frozen=True)
class PlanOfOneStage:
    """What `with_kernels` reads of a plan."""

    stages: tuple
    frozen_models: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StageOfATest:
    """What `with_kernels` reads of a stage."""

    model: object
    step: StepSpec
    config: object


def plan(**compute):
    config = SimpleNamespace(objective=NextToken(), batch_size=4, microbatches=1, sequence_length=32)
    step = StepSpec(MODEL, NextToken(), Compute(**compute), 4, 32, 1, (), 1)
    return PlanOfOneStage((StageOfATest(MODEL, step, config),))


@pytest.fixture
def planted(monkeypatch):
    """A wrong kernel that comes first on a CPU."""
    monkeypatch.setitem(IMPLEMENTATIONS, "planted", SimpleNamespace(refuses=lambda call: None, run=wrong))
    first = (dispatch.Preferred("planted"), *PREFERENCES["cpu"])
    monkeypatch.setitem(PREFERENCES, "cpu", first)
    return lambda run: IMPLEMENTATIONS["planted"].__dict__.update(run=run)


def taken(of_plan, folder):
    said = []
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    return with_kernels(of_plan, mesh, folder, said.append).stages[0].step.compute.attention, said


def test_auto_takes_the_next_where_the_first_is_wrong_and_says_why(planted, tmp_path):
    attention, said = taken(plan(), tmp_path)
    assert attention == "xla"
    assert said[0].startswith("attention: planted is not used: it differs from 'xla': error ")
    assert said[1].startswith("attention of layers 0–1 (4/2 heads of 8, rows of 32, float32): xla")


def test_by_name_a_wrong_kernel_stops_the_run(planted, tmp_path):
    with pytest.raises(JaxptError, match=r"compute\.attention=planted is refused: planted: it differs from 'xla'"):
        taken(plan(attention="planted"), tmp_path)


def test_a_right_kernel_is_taken_and_the_config_stays_as_it_was(planted, tmp_path):
    planted(right)
    attention, said = taken(plan(), tmp_path)
    assert attention == "auto"
    assert said == ["attention of layers 0–1 (4/2 heads of 8, rows of 32, float32): planted"]


def test_the_comparison_can_be_switched_off(planted, tmp_path):
    attention, said = taken(plan(compare_kernels=False), tmp_path)
    assert attention == "auto"
    assert said[0].endswith(": planted")


def test_the_reference_is_compared_with_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(
        kernels,
        "KINDS",
        [dataclasses.replace(kernels.ATTENTION, compare=lambda *_: pytest.fail("nothing to compare"))],
    )
    assert taken(plan(), tmp_path)[0] == "auto"
    assert not (tmp_path / "kernels").exists()


def test_what_was_measured_is_remembered_until_something_it_depends_on_changes(planted, tmp_path, monkeypatch):
    planted(right)
    assert verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path) is None
    planted(wrong)  # as if the same version computed something else: what was measured stands
    assert verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path) is None
    monkeypatch.setattr(
        kernels,
        "ATTENTION",
        dataclasses.replace(kernels.ATTENTION, compare=lambda *_: Comparison({}, {}, "measured again")),
    )
    for changed in (
        {"versions": (("jax", "0.99"),)},
        {"device_kind": "another"},
        {"queries": 40, "keys": 40},
        {"window": 9},
        {"dtype": "bfloat16"},
    ):
        assert (
            verdict(kernels.ATTENTION, "planted", (dataclasses.replace(CALL, **changed), LOGITS), tmp_path)
            == "measured again"
        )
    assert (
        verdict(kernels.ATTENTION, "planted", (CALL, dataclasses.replace(LOGITS, scale=0.5)), tmp_path)
        == "measured again"
    )
    assert verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path) is None
    monkeypatch.setattr(kernels, "VERSION", "of another day")
    assert verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path) == "measured again"


def test_a_planted_wrong_kernel_is_caught_though_another_version_was_right(planted, tmp_path):
    planted(right)
    assert (
        verdict(kernels.ATTENTION, "planted", (dataclasses.replace(CALL, versions=(("jax", "0.1"),)), LOGITS), tmp_path)
        is None
    )
    planted(wrong)
    assert "differs from 'xla'" in verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path)


def test_batch_and_heads_of_equal_groups_share_what_was_measured(planted, tmp_path):
    planted(right)
    assert verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path) is None
    assert (
        verdict(
            kernels.ATTENTION, "planted", (dataclasses.replace(CALL, batch=9, heads=8, kv_heads=4), LOGITS), tmp_path
        )
        is None
    )
    assert len(list((tmp_path / "kernels").iterdir())) == 1


def test_a_damaged_record_is_measured_again(planted, tmp_path):
    planted(right)
    verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path)
    (file,) = (tmp_path / "kernels").iterdir()
    whole = json.loads(file.read_text())
    assert whole["errors"].keys() == whole["allowed"].keys()
    planted(wrong)
    for damage in ("", "[]", json.dumps({**whole, "facts": {}})):
        file.write_text(damage)
        assert verdict(kernels.ATTENTION, "planted", (CALL, LOGITS), tmp_path)
        assert json.loads(file.read_text())["reason"]


def test_a_kernel_that_does_not_run_is_left_out_and_tried_again(planted, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("no such instruction\nmore")

    planted(broken)
    attention, said = taken(plan(), tmp_path)
    assert attention == "xla"
    assert said[0] == "attention: planted is not used: it fails (RuntimeError: no such instruction)"
    assert not list(tmp_path.glob("kernels/*.json"))


def test_a_wrong_product_of_experts_is_left_out_of_a_run_and_a_right_one_is_not(monkeypatch, tmp_path):
    halved = SimpleNamespace(refuses=lambda call: None, run=lambda x, *more: dense.run(x / 2, *more))
    monkeypatch.setitem(grouped.IMPLEMENTATIONS, "planted", halved)
    monkeypatch.setitem(grouped.PREFERENCES, "cpu", (dispatch.Preferred("planted"), *grouped.PREFERENCES["cpu"]))
    of_plan = plan()
    stage = dataclasses.replace(of_plan.stages[0], model=VARIANTS["moe"])
    mesh = make_mesh({"fsdp": 1}, jax.devices()[:1])
    said = []
    found = with_kernels(PlanOfOneStage((stage,)), mesh, tmp_path, said.append).stages[0].step.compute
    assert (found.attention, found.grouped_matmul) == ("auto", "tiled,ragged_dot")
    lines = [line for line in said if line.startswith("grouped_matmul: planted is not used: it differs from 'dense'")]
    assert len(lines) == 1
    assert next(line for line in said if line.startswith("experts of layers ")).endswith("float32): tiled")
    halved.run = dense.run
    assert with_kernels(PlanOfOneStage((stage,)), mesh, tmp_path / "b", said.append).stages[0].step.compute == Compute()


def test_a_wrong_exchange_between_experts_is_left_out_and_without_another_the_run_stops(monkeypatch, tmp_path):
    def late(rows, sizes, came):
        return padded.run(jnp.roll(rows, 1, axis=0), sizes, came)

    wrong = SimpleNamespace(refuses=lambda call: None, run=late)
    monkeypatch.setitem(exchange.IMPLEMENTATIONS, "planted", wrong)
    monkeypatch.setitem(exchange.PREFERENCES, "cpu", (dispatch.Preferred("planted"), *exchange.PREFERENCES["cpu"]))
    moe = dataclasses.replace(plan().stages[0], model=VARIANTS["moe"])
    mesh, said = make_mesh({"expert": 2}, jax.devices()[:2]), []
    found = with_kernels(PlanOfOneStage((moe,)), mesh, tmp_path, said.append).stages[0].step.compute
    assert found.expert_exchange == "padded"
    assert any(line.startswith("expert_exchange: planted is not used: it does not bring rows") for line in said)
    assert next(line for line in said if line.startswith("tokens to experts of layers ")).endswith("float32): padded")
    monkeypatch.setitem(exchange.PREFERENCES, "cpu", (dispatch.Preferred("planted"),))
    with pytest.raises(JaxptError, match=r"expert_exchange=auto is refused: planted: .*; train with sharding\.mesh"):
        with_kernels(PlanOfOneStage((moe,)), mesh, tmp_path, said.append)
    wrong.run = padded.run
    kept = with_kernels(PlanOfOneStage((moe,)), mesh, tmp_path / "b", said.append).stages[0].step.compute
    assert kept.expert_exchange == "auto"


def test_products_in_8_bits_are_refused_by_hardware_without_them_and_said_where_they_are_taken(tmp_path):
    mesh, said = make_mesh({"fsdp": 1}, jax.devices()[:1]), []
    with pytest.raises(JaxptError, match=r"^matmul=fp8: 'fp8' does not apply: it needs a GPU or TPU with 8-bit units"):
        with_kernels(plan(dtype="bfloat16", matmul="fp8"), mesh, tmp_path, said.append)
    with_kernels(plan(dtype="bfloat16", matmul="fp8,plain"), mesh, tmp_path, said.append)
    assert any(line.startswith("k, v of layers 0–1 (16 × 16, 128 rows, bfloat16): plain; not fp8: ") for line in said)
    assert kernel_lines(plan(matmul="fp8_emulated"), plan(matmul="fp8_emulated").stages[0], mesh)[1:] == [
        "q, gate, up of layers 0–1 (16 × 32, 128 rows, float32): fp8_emulated",
        "k, v of layers 0–1 (16 × 16, 128 rows, float32): fp8_emulated",
        "o, down of layers 0–1 (32 × 16, 128 rows, float32): fp8_emulated",
    ]
    assert len(kernel_lines(plan(), plan().stages[0], mesh)) == 1  # attention: where nothing is chosen nothing is said


def test_a_wrong_product_in_8_bits_stops_a_run_that_asked_for_it(monkeypatch, tmp_path):
    planted = SimpleNamespace(refuses=lambda call: None, run=lambda e, x, w, p: fp8_emulated.run(e, x, w, p) * 1.05)
    monkeypatch.setitem(matmul.IMPLEMENTATIONS, "planted", planted)
    mesh, said = make_mesh({"fsdp": 1}, jax.devices()[:1]), []
    with pytest.raises(
        JaxptError, match=r"compute\.matmul=planted is refused: planted: it differs from 'fp8_emulated'"
    ):
        with_kernels(plan(matmul="planted"), mesh, tmp_path, said.append)
    planted.run = fp8_emulated.run
    kept = with_kernels(plan(matmul="planted"), mesh, tmp_path / "b", said.append).stages[0].step.compute
    assert kept == Compute(matmul="planted")
