"""The worked examples of docs/extending.md: each is one file outside jaxpt that works from a config or with flags."""

import ast
import dataclasses
import importlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpt import cli
from jaxpt.api import load
from jaxpt.bundles import save_bundle
from jaxpt.config.choice import find, names
from jaxpt.config.help import describe
from jaxpt.data.build import build
from jaxpt.evaluation.evaluation import Evaluation
from jaxpt.interop import export_bundle, families, find_family
from jaxpt.models import Model, flatten
from jaxpt.models.specs import param_specs
from jaxpt.objectives.objective import Objective
from jaxpt.optim.optimizer import Optimizer
from jaxpt.reshape.config import ReshapeConfig
from jaxpt.reshape.transform import Transform
from jaxpt.tokenizers import train_sentencepiece
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from tests.models.tiny import VARIANTS, random_params

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
CONFIG = """
def get_config(folder):
    return dict(
        model=dict(vocab_size=280, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True),
        tokenizer=folder + "/tokenizer.model",
        sources=dict(sums=dict(path=folder + "/packed", repeat=100)),
        stages=[dict(duration="4 steps", batch_size=8, sequence_length=32, mixture=dict(sums=1), {stage})],
        metrics=dict(every=1, tensorboard=False),
        {more}
    )
"""


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    texts = [f"{a} plus {b} is {a + b}." for a in range(40) for b in range(9)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    tokenizer = train_sentencepiece(texts, folder / "tokenizer.model", 280)
    build(str(folder / "text.jsonl"), folder / "packed", tokenizer, 32)
    return folder


def train(folder, name, *overrides, more="", stage=""):
    """The records of a run with a few lines more in its config."""
    (folder / f"{name}.py").write_text(CONFIG.replace("{more}", more).replace("{stage}", stage))
    config = f"--config={folder / name}.py:{folder}"
    assert cli.main(["train", config, f"--workdir={folder / name}", *overrides]) == 0
    return read(folder / name / "metrics.jsonl")


def losses(records):
    return [r["train/loss"] for r in records if "train/loss" in r]


def test_an_optimizer(setting):
    records = train(setting, "signum", more='optimizer=dict(name="signum:Signum", learning_rate=1e-3, momentum=0.8)')
    assert len(losses(records)) == 4
    assert losses(records)[-1] < losses(records)[0]
    stored = json.loads((setting / "signum" / "config.json").read_text())["optimizer"]
    assert (stored["name"], stored["momentum"]) == ("signum:Signum", 0.8)


def test_an_optimizer_on_the_command_line(setting):
    flags = ["--config.optimizer.name=signum:Signum", "--config.optimizer.momentum=0.8"]
    assert len(losses(train(setting, "signum_flags", *flags))) == 4


def test_an_objective(setting):
    quick = "optimizer=dict(learning_rate=0.03)"  # at the usual rate four steps differ by the last bit
    records = train(setting, "smoothed", more=quick, stage='objective=dict(name="smoothed:Smoothed", smoothing=0.2)')
    plain = train(setting, "plain", more=quick)
    first = next(r for r in records if "train/loss" in r)
    assert first["train/loss"] == pytest.approx(losses(plain)[0], rel=1e-4)  # the same model, measured alike
    assert first["train/uniform_loss"] == pytest.approx(math.log(280), rel=0.02)
    assert losses(records)[-1] != pytest.approx(losses(plain)[-1], rel=1e-4)  # and trained otherwise


def test_an_objective_on_the_command_line(setting):
    flags = ["--config.stages[0].objective.name=smoothed:Smoothed", "--config.stages[0].objective.smoothing=0.2"]
    assert "train/uniform_loss" in next(r for r in train(setting, "smoothed_flags", *flags) if "train/loss" in r)


def test_an_evaluation(setting):
    entry = f'top280=dict(name="accuracy:Accuracy", documents="{setting / "text.jsonl"}", top=280)'
    entry += f', top1=dict(name="accuracy:Accuracy", documents="{setting / "text.jsonl"}")'
    records = train(setting, "accuracy", more=f"evaluations=dict({entry})")
    measured = [r for r in records if "eval/top1/accuracy" in r]
    assert [r["step"] for r in measured] == [0, 4]
    assert 0 <= measured[0]["eval/top1/accuracy"] < 0.5
    all_of_them = [r["eval/top280/accuracy"] for r in records if "eval/top280/accuracy" in r]
    assert all_of_them == [1, 1]  # among all tokens of the vocabulary the right one always is


def test_a_transform(tmp_path):
    config = VARIANTS["llama"].replace(layers=VARIANTS["llama"].layers[:1] * 4)
    save_bundle(Model(config, random_params(config)), tmp_path / "deep")
    (tmp_path / "thin_config.py").write_text(
        'def get_config():\n    return {"transforms": [{"name": "thin:Thin", "every": 2}]}\n'
    )
    command = ["reshape", f"--config={tmp_path / 'thin_config.py'}", f"--from={tmp_path / 'deep'}"]
    assert cli.main([*command, f"--to={tmp_path / 'thin'}"]) == 0
    deep, thin = load(tmp_path / "deep"), load(tmp_path / "thin")
    assert len(thin.config.layers) == 2
    assert thin.lineage[-1]["op"] == "thin"
    for path, leaf in flatten(thin.params).items():
        whole = np.asarray(flatten(deep.params)[path])
        np.testing.assert_array_equal(leaf, whole[::2] if path.startswith("blocks/") else whole, err_msg=path)


def test_a_model_family(tmp_path, capsys):
    config = VARIANTS["qwen2"]
    params = random_params(config)
    export_bundle(Model(config, params), tmp_path / "hf", "internlm3:FAMILY")
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (values["model_type"], values["qkv_bias"]) == ("internlm3", True)
    where = [f"--from={tmp_path / 'hf'}", f"--to={tmp_path / 'bundle'}"]
    assert cli.main(["import", *where]) == 1
    assert "jaxpt import --family=package.module:FAMILY reads one of your own" in capsys.readouterr().err
    assert cli.main(["import", *where, "--family=internlm3:FAMILY"]) == 0
    again = load(tmp_path / "bundle")
    assert again.config == config
    for path in flatten(param_specs(config)):
        np.testing.assert_array_equal(flatten(again.params)[path], flatten(params)[path], err_msg=path)


@pytest.mark.parametrize(
    ("base", "example", "config", "section"),
    [
        (Optimizer, "signum", RunConfig, "optimizer"),
        (Objective, "smoothed", RunConfig, "stages.objective"),
        (Evaluation, "accuracy", RunConfig, "evaluations"),
        (Transform, "thin", ReshapeConfig, "transforms"),
    ],
)
def test_in_its_room_a_file_is_known_by_its_name_with_nothing_else_touched(
    base, example, config, section, tmp_path, monkeypatch
):
    room = importlib.import_module(base.room)
    assert example not in names(base)
    (tmp_path / f"{example}.py").write_text((EXAMPLES / f"{example}.py").read_text())
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    try:
        cls = find(base, example, "name")
        assert cls().name == example  # and so a config that is stored names it
        lines = [" ".join(line.split()) for line in describe(config, section).splitlines()]
        assert any(line.startswith(f"name={example}: ") for line in lines)
        for field in set(dataclasses.fields(cls)) - set(dataclasses.fields(base)):
            assert any(line.startswith(f"{field.name} ") for line in lines), field.name
    finally:
        sys.modules.pop(f"{base.room}.{example}", None)


def test_a_family_in_its_room_is_known_by_its_model_type(tmp_path, monkeypatch):
    (tmp_path / "internlm3.py").write_text((EXAMPLES / "internlm3.py").read_text())
    assert "internlm3" not in find_family.FAMILIES
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    try:
        assert find_family._all()["internlm3"].architecture == "InternLM3ForCausalLM"
    finally:
        sys.modules.pop("jaxpt.interop.families.internlm3", None)


def test_every_example_is_explained_and_every_file_that_the_page_names_is_there():
    page = (ROOT / "docs" / "extending.md").read_text()
    files = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert len(files) == 5
    for name in files:
        assert f"docs/examples/{name}" in page
        code = (EXAMPLES / name).read_text()
        assert ast.get_docstring(ast.parse(code))
    for block in re.findall(r"```python\n(.*?)\n```", page, re.S):
        assert any(block in path.read_text() for path in EXAMPLES.glob("*.py")), block[:200]
