"""A stage whose mixture follows held-out losses, from the command line: by the rule, logged, kept, refused."""

import json
import math

import pytest

from jaxpt import cli
from jaxpt.api import load as load_model
from jaxpt.bundles import save_bundle
from jaxpt.checkpoints.checkpoints import read_run
from jaxpt.config.file import load as load_config
from jaxpt.data.build import build
from jaxpt.data.quota import ONE
from jaxpt.data.reweight import reweight
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.model import Model
from jaxpt.tokenizers import load, train_sentencepiece
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from jaxpt.training.reweighting import Reweighting
from tests.commands.test_train_on_text import MODEL
from tests.evaluation import sums
from tests.files.flips import assert_never_silent, outcomes

CONFIG = """
def get_config(folder):
    return dict(
        model={model},
        tokenizer=folder + "/tokenizer.model",
        sources={{n: dict(path=folder + "/" + n, repeat=100) for n in ("sums", "words")}},
        stages=[
            dict(
                duration="14 steps", batch_size=8, sequence_length=64, mixture=dict(sums=0.5, words=0.5),
                reweight=dict(every="4 steps", reference=folder + "/bundle", rate=0.5),
            )
        ],
        optimizer=dict(learning_rate=1e-2),
        checkpoint=dict(every="6 steps"),
        evaluations=dict(
            bits_per_byte=dict(documents={{n: folder + "/" + n + ".held.jsonl" for n in ("sums", "words")}})
        ),
        metrics=dict(every=2, tensorboard=False),
    )
"""


def words(start, count):
    return [" ".join(f"w{(n * 7 + k * k) % 97}" for k in range(12)) for n in range(start, start + count)]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reweight")
    texts = {"sums": sums.texts(0, 40), "words": words(0, 200)}
    tokenizer = train_sentencepiece([t for ts in texts.values() for t in ts], folder / "tokenizer.model", 300)
    for name, some in texts.items():
        sums.write(folder / f"{name}.jsonl", some)
        sums.write(folder / f"{name}.held.jsonl", some[:20])
        build(str(folder / f"{name}.jsonl"), folder / name, tokenizer, 64)
    config = ModelConfig(**{**MODEL, "layers": uniform_layers(2)})
    save_bundle(Model(config, init_params(config, 7), load(folder / "tokenizer.model"), ()), folder / "bundle")
    (folder / "config.py").write_text(CONFIG.format(model=MODEL))
    return folder


def train(setting, workdir, *overrides):
    return cli.main(["train", f"--config={setting / 'config.py'}:{setting}", f"--workdir={workdir}", *overrides])


def test_decisions_follow_the_rule_and_stand_in_the_log(setting):
    run = setting / "run"
    assert train(setting, run) == 0
    records = read(run / "metrics.jsonl")
    decided = {r["step"]: r for r in records if "reweight/weight/sums" in r}
    assert sorted(decided) == [4, 8, 12]
    weights = {"sums": 0.5, "words": 0.5}
    anchors = {a["step"]: a["weights"] for a in read_run(run, 14)["schedule_log"]["anchors"]}
    for step, record in decided.items():
        loss, reference = ({n: record[f"reweight/{what}/{n}"] for n in weights} for what in ("loss", "reference"))
        weights = reweight(weights, loss, reference, rate=0.5)
        assert {n: record[f"reweight/weight/{n}"] for n in weights} == pytest.approx(weights, abs=1e-6)
        assert [w / ONE for w in anchors[step]] == pytest.approx(list(weights.values()), abs=1e-6)
        wanted = next(r for r in records if r["step"] == step + 2 and "data/wanted/sums" in r)
        assert wanted["data/wanted/sums"] == pytest.approx(weights["sums"], abs=1e-6)
    kept = json.loads((run / "reference_losses.json").read_text())["losses"]
    assert list(next(iter(kept.values())).values()) == pytest.approx([math.log(300)] * 2, abs=0.5)  # a random model


def test_damage_to_the_kept_losses_is_noticed_before_they_are_aimed_at(setting):
    config = load_config(RunConfig, f"{setting / 'config.py'}:{setting}")
    words, file = load(setting / "tokenizer.model"), setting / "run" / "reference_losses.json"
    good = file.read_bytes()

    def aimed_at():
        if not file.exists():  # as at the first start: measured again
            file.write_bytes(good)
        return Reweighting(config, words, setting / "run", load_model).reference

    counts = outcomes(file, aimed_at, 9)
    assert_never_silent(counts)
    file.write_text(json.dumps(json.loads(good)["losses"]))  # as af7ccdc wrote it
    assert aimed_at() == {"stage0": next(iter(json.loads(good)["losses"].values()))}
    file.write_bytes(good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "evaluations.bits_per_byte.documents={}",
            "stages[0].reweight needs held-out documents of sums; set --config.evaluations.bits_per_byte.doc",
        ),
        ("stages[0].reweight.reference=None", "config.stages[0].reweight.reference is missing"),
        ("stages[0].reweight.reference=half.json", "half.json has no loss for words"),
        ("stages[0].reweight.reference=none.json", "none.json cannot be read"),
        ("stages[0].reweight.floor=1.5", "reweight.floor is 1.5"),
    ],
)
def test_what_reweighting_lacks_is_an_error_of_one_line(setting, tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.json").write_text('{"sums": 2.0}')
    if change.startswith("evaluations"):
        text = (setting / "config.py").read_text().replace("documents={n:", "documents={n + '_':")
        (tmp_path / "config.py").write_text(text)
        code = cli.main(["train", f"--config={tmp_path / 'config.py'}:{setting}", f"--workdir={tmp_path / 'run'}"])
    else:
        code = train(setting, tmp_path / "run", f"--config.{change}")
    assert code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
