"""The configs of mask training: the paper's numbers, and targets that fit the models they are cut from."""

import json
from pathlib import Path

import pytest

from jaxpt.config.file import load
from jaxpt.models import ModelConfig, param_count, uniform_layers
from jaxpt.models.presets import PRESETS
from jaxpt.objectives.objective import PARENT, Progress
from jaxpt.optim.schedule import learning_rate, resolve
from jaxpt.reshape.budget import resized
from jaxpt.reshape.config import ReshapeConfig
from jaxpt.reshape.gates.relu import Relu
from jaxpt.reshape.target import lengths
from jaxpt.training.config import RunConfig

LLAMA2 = ModelConfig(32_000, 4096, 32, 32, 128, 11_008, uniform_layers(32))
PARENTS = {"1.3b": LLAMA2, "2.7b": LLAMA2, "qwen3b": PRESETS["qwen2.5-14b"]}


@pytest.mark.parametrize(("shape", "size"), [("1.3b", 1.35e9), ("2.7b", 2.70e9), ("qwen3b", 3.11e9)])
def test_targets_are_what_their_names_say_and_can_be_cut(shape, size):
    stage = load(RunConfig, f"configs/reshape/shear.py:{shape}").stages[0]
    want = lengths(PARENTS[shape], stage.objective.target)
    assert param_count(resized(PARENTS[shape], want)) == pytest.approx(size, rel=0.01)
    axes = ("embed", "layers", "kv_heads", "mlp")
    assert stage.objective.masked_axes(PARENTS[shape]) == tuple(a for a in axes if (shape, a) != ("2.7b", "layers"))
    assert sum(stage.mixture.values()) == pytest.approx(1)
    reference = Path(stage.reweight.reference)
    if reference.suffix == ".json":
        assert json.loads(reference.read_text()).keys() == stage.mixture.keys()


def test_numbers_are_those_of_the_paper_and_its_code():
    config = load(RunConfig, "configs/reshape/shear.py:2.7b,data/own")
    (stage,) = config.stages
    objective = stage.objective
    assert stage.steps * stage.tokens_per_step == 3200 * 32 * 4096
    assert objective.scheduled()["sparsity"](Progress(320, 3200, 1)) == pytest.approx(0.5)  # 640 of 3,200
    schedule = resolve(stage.schedule, 3200, stage.tokens_per_step)
    assert learning_rate(schedule, 320, 1e-4) == pytest.approx(1e-4)
    assert learning_rate(schedule, 3200, 1e-4) == pytest.approx(1e-5)
    for optimizer, rate in ((config.optimizer, 1e-4), (objective.gates, 1.0), (objective.multipliers, 1.0)):
        kept = optimizer.learning_rate, optimizer.beta1, optimizer.beta2, optimizer.weight_decay, optimizer.clip_norm
        assert kept == (rate, 0.9, 0.95, 0.0, 1.0)
    assert objective.groups()["multipliers"].ascent
    assert (stage.reweight.every, stage.reweight.rate, stage.reweight.floor, stage.reweight.clip) == (
        "50 steps", 1.0, 1e-4, False
    )  # fmt: skip
    assert config.sources["cc"].path == "data/own/cc"


def test_the_frozen_variant_trains_relu_gates_alone_beside_the_unmasked_parent():
    (stage,) = load(RunConfig, "configs/reshape/shear.py:1.3b_frozen").stages
    assert stage.freeze == ("*",)
    assert isinstance(stage.objective.gate, Relu)
    assert stage.objective.frozen() == {"teacher": PARENT}


def test_the_small_config_and_the_cut_can_be_read():
    (stage,) = load(RunConfig, "configs/reshape/shear_small.py").stages
    quickstart = load(RunConfig, "configs/quickstart.py").model.model(None)
    assert stage.objective.masked_axes(quickstart) == ("embed", "layers", "heads", "mlp")
    (transform,) = load(ReshapeConfig, "configs/reshape/shear.py:finalise").transforms
    assert transform.name == "shear"
    assert transform.reads_masks
