"""Mistakes that can be known before step one are reported there, with the way out."""

import dataclasses

import pytest

from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.models.specs import param_specs
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.training import run_plan
from jaxpt.training.config import RunConfig
from jaxpt.training.overview import overview
from jaxpt.training.run_plan import check_disk, make_plan
from jaxpt.training.sources import row_length
from tests.training.feed import MadeSource
from tests.training.run_made import CONFIG, STAGE


@dataclasses.dataclass
class MadeTokenizer:
    """Stands for a tokenizer."""

    fingerprint: str


def plan(source=MadeSource(), tokenizer=None, start=None, **changes):  # noqa: B008
    return make_plan(build(RunConfig, {**CONFIG, **changes}), {"a": source, "b": MadeSource()}, start, tokenizer)


def refused(*args, **kinds):
    with pytest.raises(JaxptError) as error:
        plan(*args, **kinds)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_that_fits_is_resolved_into_stages():
    got = plan()
    assert [(s.first, s.stop) for s in got.stages] == [(0, 20), (20, 30)]
    assert [s.peak for s in got.stages] == [1e-2, 1e-3]
    assert got.steps == 30
    assert got.source_names == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (MadeSource(sequence_length=32), "config.stages[0].sequence_length is 16, the rows of source a (made) have 32"),
        (MadeSource(vocab_size=49), "config.sources.a: made has token ids up to 48, the model's vocabulary has 48"),
        (MadeSource(rows=0), "config.sources.a: made has no rows"),
        (
            MadeSource(tokenizer_fingerprint="0" * 64),
            "was packed with tokenizer 000000000000, this run's is ffffffffffff",
        ),
    ],
)
def test_a_source_that_does_not_fit_is_refused_with_both_values(source, message, monkeypatch):
    monkeypatch.setattr(run_plan, "accepts", lambda tokenizer, stored, what: stored == tokenizer.fingerprint)
    assert message in refused(source, tokenizer=MadeTokenizer("f" * 64))


def test_a_source_of_weight_zero_may_have_other_rows():
    stage = {**STAGE, "duration": "3 steps", "mixture": {"a": 0.0, "b": 1.0}}
    assert plan(MadeSource(sequence_length=32), stages=[stage]).steps == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"preset": "tiny-1n"}}, "tiny-1m"),
        ({"model": {**CONFIG["model"], "kv_heads": 3}}, "model.heads is 2, not a multiple of model.kv_heads (3)"),
        ({"compute": {"dtype": "bfloat32"}}, "did you mean 'float32'?"),
        ({"stages": [{**STAGE, "duration": "9 steps", "rope": {"teta": 1}}]}, "stages[0].rope.teta is not a key"),
        ({"model": {**CONFIG["model"], "layers": "three"}}, "model.layers is 'three', it must be a number"),
        ({"stages": [{**STAGE, "duration": "9 steps", "schedule": {"name": "wds"}}]}, "did you mean 'wsd'?"),
        (
            {"stages": [{**STAGE, "duration": "9 steps", "pose": {"target": 16}}]},
            "stages[0].pose.target is 16, it must be above the stage's sequence_length (16)",
        ),
        (
            {"stages": [{**STAGE, "duration": "9 steps", "pose": {"target": 10**6}}]},
            "positions; set --config.stages[0].rope.max_positions=1000000",
        ),
    ],
)
def test_a_value_the_rooms_refuse_is_reported_before_step_one(changes, message):
    assert message in refused(**changes)


def test_a_preset_made_a_mixture_norms_its_queries_and_keys():
    experts = {"layers": [{"ffn": "moe", "count": 4}], "moe": {"experts": 4, "experts_per_token": 2, "mlp": 16}}
    assert plan(model={"preset": "tiny-1m", **experts}).model.qk_norm == "head"
    assert plan(model={"preset": "tiny-1m", "qk_norm": "none", **experts}).model.qk_norm == "none"
    assert plan(model={"preset": "tiny-1m"}).model.qk_norm == "none"


def test_a_model_of_another_shape_than_init_from_is_refused():
    start = plan().model
    assert plan(start=start).model == start
    printed = refused(start=start, model={**CONFIG["model"], "mlp": 64})
    assert "config.model.mlp is 64, the model of init_from has 32" in printed


def test_a_stage_may_change_the_rope_from_there_on():
    changed = {"theta": 1e6, "max_positions": 4096}
    stages = [{**STAGE, "duration": "3 steps"}, {**STAGE, "duration": "2 steps", "rope": changed}]
    got = plan(stages=stages)
    assert [s.model.rope.theta for s in got.stages] == [10_000.0, 1e6]
    assert got.stages[1].model.max_positions == 4096
    assert got.stages[0].step != got.stages[1].step


def test_groups_sizes_and_tokens_become_weights_of_rows():
    mixture = {"g": {"weight": 1.0, "sources": {"a": "size", "b": "size"}}}
    stages = [{**STAGE, "duration": "3 steps", "mixture": mixture}]
    half_full = MadeSource(rows=3000, tokens=24_000)
    assert plan(half_full, stages=stages).stages[0].weights == pytest.approx({"a": 0.75, "b": 0.25})
    stages = [{**STAGE, "duration": "3 steps", "mixture_unit": "tokens"}]
    assert plan(half_full, stages=stages).stages[0].weights == pytest.approx({"a": 2.0, "b": 1.0})


def test_equal_stages_share_one_compiled_step():
    stages = [{**STAGE, "duration": "3 steps"}, {**STAGE, "duration": "2 steps", "learning_rate": 1e-5}]
    got = plan(stages=stages)
    assert got.stages[0].step == got.stages[1].step


def test_a_disk_too_small_for_the_checkpoints_is_refused(tmp_path):
    model = plan(model={"preset": "llama3.1-405b"}).model
    with pytest.raises(JaxptError, match="checkpoints take"):
        check_disk(tmp_path, model, make_optimizer(AdamW(), param_specs(model)), 3)


def test_a_text_that_no_stage_uses_any_more_keeps_the_row_length_of_the_stage_that_names_it():
    short = {**STAGE, "duration": "3 steps", "mixture": {"a": 0.0, "b": 1.0}}
    long = {**STAGE, "duration": "3 steps", "sequence_length": 32, "mixture": {"b": 1.0}}
    config = build(RunConfig, {**CONFIG, "stages": [long, short]})
    assert row_length(config, "a") == 16


WIDER = {"base": {"embed": 8, "heads": 1, "mlp": 16, "layers": 1}}


def test_a_base_shape_makes_the_models_multipliers_and_those_of_the_optimizer():
    made = plan(mup=WIDER)
    m, r = made.model.embed / 8, len(made.model.layers)
    assert (made.model.logit_scale, made.model.residual_scale) == (1 / m, 1 / r)
    optimizer = make_optimizer(made.config.optimizer, param_specs(made.model), made.scaling)
    assert optimizer.lr_mult["blocks"]["dense"]["q"] == 1 / m
    assert "µP: multiplied are" in overview(made)
    assert "µP" not in overview(plan())
    assert plan().scaling is None


def test_a_model_of_init_from_keeps_its_forward_pass_and_only_its_rates_follow():
    given = plan().model
    made = plan(start=given, mup=WIDER)
    assert made.model == given
    optimizer = make_optimizer(made.config.optimizer, param_specs(made.model), made.scaling)
    assert optimizer.lr_mult["blocks"]["dense"]["q"] == 8 / given.embed


def test_a_base_shape_that_lacks_a_length_is_refused():
    assert "config.mup.base.mlp is missing" in refused(mup={"base": {"embed": 8, "heads": 1, "layers": 1}})
    assert "config.mup.base.embd is not a key (did you mean 'embed'?)" in refused(mup={"base": {"embd": 8}})
