"""A jaxpt model as the scorer: its perplexities are those of its own forward pass, on one device or eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_tools.commands import perplexity
from data_tools.perplexity.jaxpt_model import open_scorer, scorer
from jaxpt.bundles.writer import save_bundle
from jaxpt.errors import JaxptError
from jaxpt.models import Model, ModelConfig, forward, init_params, uniform_layers
from jaxpt.tokenizers import train_sentencepiece

TEXTS = [
    "the cat sat on the mat and saw the dog",
    "a dog ran",
    "",
    "numbers 1 2 3 and more words than the others have " * 9,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = train_sentencepiece(TEXTS * 50, tmp_path_factory.mktemp("t") / "t.model", 320)
    shape = {"embed": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 64}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, layers=uniform_layers(2), max_positions=512, **shape)
    return Model(config, init_params(config, 0), tokenizer)


def plain(model, text):
    """The whole text in one forward pass."""
    ids = np.concatenate([[model.tokenizer.bos_id], model.tokenizer.encode(text)])[None].astype(np.int32)
    chances = jax.nn.log_softmax(forward(model.config, model.params, jnp.asarray(ids))[0, :-1])
    return float(np.exp(-np.mean(np.take_along_axis(np.asarray(chances), ids[0, 1:, None], 1))))


def test_eight_devices_give_the_perplexity_of_one_plain_forward_pass(model):
    found = scorer(model, batch_size=8, sequence_length=512).perplexities(TEXTS)
    for text, seen in zip(TEXTS, found):
        if text:
            assert seen == pytest.approx(plain(model, text), rel=1e-4)
    assert np.isnan(found[2])
    assert found[0] != pytest.approx(plain(model, TEXTS[1]), rel=1e-4)


def test_the_command_takes_a_bundle(model, tmp_path):
    save_bundle(model, tmp_path / "bundle")
    found = open_scorer(tmp_path / "bundle", sequence_length=64).perplexities(TEXTS[:2])
    assert found[0] == pytest.approx(plain(model, TEXTS[0]), rel=1e-4)
    (tmp_path / "a.jsonl").write_text('{"text": "the cat sat", "lang": "en"}\n')
    args = [f"--input={tmp_path}/a.jsonl", f"--output={tmp_path}/out", f"--model={tmp_path}/bundle"]
    assert perplexity.main([*args, "--sequence_length=64"]) == 0
    assert '"perplexity"' in (tmp_path / "out/a.jsonl").read_text()


def test_a_batch_that_the_devices_cannot_share_and_a_missing_tokenizer_are_named(model):
    with pytest.raises(JaxptError, match="multiple of the 8 devices"):
        scorer(model, batch_size=3)
    with pytest.raises(JaxptError, match="no tokenizer"):
        scorer(Model(model.config, model.params))
