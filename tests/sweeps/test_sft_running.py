"""The order of a probe's parts: what is finished is not done again, what is another probe's is not touched."""

import dataclasses
import json
import shutil

import pytest

from jaxpt import api
from jaxpt.cli.stopping import EXIT_PREEMPTED
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.model import Model
from jaxpt.sweeps.sft_probe import fitted, models_named, shortened
from jaxpt.sweeps.sft_running import SftProbe
from jaxpt.tokenizers import train_sentencepiece
from jaxpt.training.config import RunConfig
from tests.sweeps.test_sft_probe import SFT, talk, write


class StandIn:
    """Tunes and scores without a model; notes what was asked, and fails or is stopped at the `stop`-th call."""

    def __init__(self, stop=0, error=None):
        self.did, self.stop, self.error = [], stop, error

    def _note(self, *what):
        self.did.append(what)
        if len(self.did) == self.stop and self.error:
            raise self.error

    def tune(self, config, workdir):
        self._note("tune", workdir.parent.name)
        if len(self.did) == self.stop:
            return EXIT_PREEMPTED
        (workdir / "checkpoints" / "4").mkdir(parents=True, exist_ok=True)
        write(workdir / "metrics.jsonl", [{"step": n, "tokens": 9 * n, "train/loss": 5.0 - n} for n in (1, 2)])
        return 0

    def score(self, path, folder, template):
        self._note(folder.name, folder.parent.name, template is not None)
        value = len(path) + (0.5 if folder.name == "after" else 0.0)
        score = {"task": "t", "metric": "acc", "value": value, "stderr": 0.1, "documents": 4}
        return {"scores": [score], "truncated": 0}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Conversations, and three bundles."""
    folder = tmp_path_factory.mktemp("running")
    write(folder / "chats.jsonl", [talk(n) for n in range(40)])
    words = train_sentencepiece([json.dumps(talk(n)) for n in range(40)], folder / "tokenizer.model", 320)
    shape = {"vocab_size": 320, "embed": 8, "heads": 1, "kv_heads": 1, "head_dim": 8, "mlp": 16}
    config = ModelConfig(**shape, layers=uniform_layers(1), max_positions=256, tie_embeddings=True)
    for n in range(3):
        api.save(Model(config, init_params(config, n), words), folder / f"b{n}")
    return folder


@pytest.fixture
def begin(setting, tmp_path):
    """Runs a probe of the three bundles, with a stand-in, in one folder."""
    config = load(RunConfig, f"{SFT}:{setting / 'chats.jsonl'}", [f"--config.cache={setting / 'cache'}"])
    config = dataclasses.replace(config, stages=(dataclasses.replace(config.stages[0], batch_size=4),))
    models = [
        dataclasses.replace(m, name=m.name[-2:]) for m in models_named([str(setting / f"b{n}") for n in range(3)])
    ]

    def run(by, names=("b0", "b1", "b2"), settings=None, **more):
        (tmp_path / "p").mkdir(exist_ok=True)
        probe = SftProbe(tmp_path / "p", config, settings or {"limit": None}, by.tune, by.score, **more)
        probe.claim()
        return probe.run([m for m in models if m.name in names])

    return run


def parts(name, conversations=(False, False)):
    return [("base", name, conversations[0]), ("tune", name), ("after", name, conversations[1])]


def test_each_model_is_scored_tuned_and_scored_again(begin, tmp_path, capsys):
    by = StandIn()
    results = begin(by)
    assert by.did == [*parts("b0"), *parts("b1"), *parts("b2")]
    assert [r.sft_loss for r in results] == [(4.0, 3.0)] * 3
    assert [r.after[0].value % 1 for r in results] == [0.5] * 3
    assert not list(tmp_path.glob("p/models/*/sft/checkpoints"))
    out = capsys.readouterr().out
    assert "rows of 256 tokens instead of 1,024" in out
    assert "part 9 of 9: b2, scores after it" in out


@pytest.mark.parametrize("stop", range(1, 10))
def test_stopped_in_any_part_it_goes_on_with_that_part(begin, stop):
    whole = [*parts("b0"), *parts("b1"), *parts("b2")]
    first = StandIn(stop, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        begin(first)
    then = StandIn()
    results = begin(then)
    left = whole[stop - 1 :]
    if left[0][0] == "after":  # the fine-tune says by itself that it has ended
        left = [("tune", left[0][1]), *left]
    assert then.did == left
    assert len(results) == 3


def test_a_fine_tune_that_a_signal_stopped_stops_the_probe(begin):
    assert begin(StandIn(2)) is None


def test_a_fine_tune_that_fails_is_named(begin):
    by = StandIn()
    by.tune = lambda config, workdir: 1
    with pytest.raises(JaxptError, match=r"the fine-tune of b0 ended with 1; see .*sft.log"):
        begin(by)


def test_models_that_come_later_join_and_those_that_are_gone_stay(begin):
    begin(StandIn(), ["b0", "b1"])
    by = StandIn()
    results = begin(by, ["b1", "b2"])
    assert by.did == parts("b2")
    assert sorted(r.model.name for r in results) == ["b0", "b1", "b2"]


def test_prompts_are_conversations_where_asked_for_and_weights_are_kept(begin, tmp_path):
    for chat, written in (("after", (False, True)), ("both", (True, True))):
        by = StandIn()
        begin(by, ["b0"], chat=chat, keep=True)
        assert by.did == parts("b0", written)
        assert (tmp_path / "p/models/b0/sft/checkpoints/4").is_dir()
        shutil.rmtree(tmp_path / "p")


def test_a_start_that_scored_nothing_settles_nothing(begin, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        begin(StandIn(1, KeyboardInterrupt()), settings={"limit": 9})
    begin(StandIn(), ["b0"])
    with pytest.raises(JaxptError, match=r"was begun with another limit \(None, now 9\)"):
        begin(StandIn(), settings={"limit": 9})


def test_another_probe_other_files_and_another_model_under_the_name_are_refused(begin, tmp_path):
    begin(StandIn(), ["b0"])
    with pytest.raises(JaxptError, match=r"was begun with another limit \(None, now 2\); give another --output_dir"):
        begin(StandIn(), settings={"limit": 2})
    note = tmp_path / "p/models/b0/model.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "digest": "other"}))
    with pytest.raises(JaxptError, match="is not the model that"):
        begin(StandIn(), ["b0"])
    shutil.rmtree(tmp_path / "p")
    (tmp_path / "p").mkdir()
    (tmp_path / "p/mine.txt").touch()
    with pytest.raises(JaxptError, match=r"holds mine\.txt, not a probe"):
        begin(StandIn())


def test_a_config_is_fitted_to_the_model_and_to_the_rows_there_are(setting):
    model = api.load(setting / "b0")
    config = load(RunConfig, f"{SFT}:{setting / 'chats.jsonl'}")
    made, said = fitted(config, model.config, model.tokenizer)
    assert made.stages[0].sequence_length == 256
    assert made.sources["chats"].pack.template == "plain"
    assert len(said) == 2
    assert fitted(made, model.config, model.tokenizer) == (made, [])
    short, said = shortened(config, {"chats": 100})  # twice a hundred rows, in batches of 16
    assert (short.stages[0].steps, said) == (12, ["12 steps instead of 300: the conversations give no more rows"])
    assert shortened(config, {"chats": 2400}) == (config, [])
    with pytest.raises(JaxptError, match="give 7 rows of 1,024 tokens, too few for a batch of 16"):
        shortened(config, {"chats": 7})
