"""A config's model section has the keys of the model's own dataclasses, and says which model it means."""

import typing

import pytest

from jaxpt.config.hints import keys_of
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig, RopeConfig
from jaxpt.models.moe_config import MoeConfig
from jaxpt.models.presets import preset
from jaxpt.models.section import ModelSection, MoeSection, RopeSection


@pytest.mark.parametrize(
    ("section", "model", "more"),
    [
        (ModelSection, ModelConfig, {"preset"}),
        (RopeSection, RopeConfig, {"max_positions"}),
        (MoeSection, MoeConfig, set()),
    ],
)
def test_a_section_has_the_keys_of_the_model_with_their_types_all_optional(section, model, more):
    own, keys = keys_of(model), keys_of(section)
    assert keys.keys() == own.keys() | more, "give the model's new key to its section in jaxpt/models/section.py"
    within = {RopeConfig: RopeSection, MoeConfig: MoeSection}
    for name, key in own.items():
        assert keys[name].optional or name == "layers"
        assert keys[name].default is None
        assert keys[name].hint == within.get(key.hint, typing.Any if name == "layers" else key.hint), name


def model(start=None, **values):
    return build(ModelSection, values, "config.model").model(start)


def test_a_preset_with_keys_replaced_is_another_model():
    tiny = preset("tiny-1m")
    assert model(preset="tiny-1m") == tiny
    assert model(preset="tiny-1m", mlp=64, rope={"theta": 5.0}).replace(mlp=tiny.mlp, rope=tiny.rope) == tiny
    assert model(preset="tiny-1m", rope={"max_positions": 64}).max_positions == 64
    assert model(preset="tiny-1m", layers=2).layers == tiny.layers[:2]
    dense = {"layers": [{"ffn": "moe", "count": 2}], "moe": {"experts": 4, "experts_per_token": 2, "mlp": 16}}
    assert model(preset="tiny-1m", **dense).qk_norm == "head"
    assert tiny.qk_norm == "none"


def test_of_a_model_to_start_from_only_the_rope_may_change():
    tiny = preset("tiny-1m")
    assert model(tiny) == model(tiny, mlp=tiny.mlp, layers=len(tiny.layers), preset="tiny-1m") == tiny
    assert model(tiny, rope={"theta": 5.0}).rope.theta == 5.0
    with pytest.raises(JaxptError, match=r"config\.model\.mlp is 64, the model of init_from has"):
        model(tiny, mlp=64)
    with pytest.raises(JaxptError, match=r"config\.model\.preset is 'tiny-8m', init_from holds another model"):
        model(tiny, preset="tiny-8m")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "model lacks vocab_size"),
        ({"preset": "tiyn-1m"}, "did you mean 'tiny-1m'"),
        ({"preset": "tiny-1m", "heads": 3}, "model.heads is 3, not a multiple of model.kv_heads"),
        ({"preset": "tiny-1m", "layers": "four"}, "model.layers is 'four', it must be a number of layers or a list"),
        ({"preset": "tiny-1m", "activation": "relu"}, "config.model.activation is 'relu', it must be one of silu"),
        ({"preset": "tiny-1m", "moe": {"experts": 4}}, "model.moe lacks experts_per_token, mlp"),
    ],
)
def test_what_is_no_model_is_refused_by_name(values, line):
    with pytest.raises(JaxptError) as error:
        model(**values)
    assert line in str(error.value)
