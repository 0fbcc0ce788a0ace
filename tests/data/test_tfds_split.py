"""Datasets of TFDS as sources: read from their files alone, without TensorFlow, packed like any text."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxpt.data.build import Packing, build
from jaxpt.data.cache import packed_on_first_use
from jaxpt.data.origins import TextFiles, is_text, open_origin
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece

tfds = pytest.importorskip("tensorflow_datasets", reason="TFDS is not installed (jaxpt[tfds])")

TEXTS = [f"document {i}: größer " + "word " * (i % 23) for i in range(40)]


class MadeTalks(tfds.core.GeneratorBasedBuilder):
    """Texts and one-turn conversations."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        messages = tfds.features.Sequence({"role": text, "content": text})
        features = tfds.features.FeaturesDict({"text": text, "messages": messages, "number": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(TEXTS[:30]), "test": self._generate_examples(TEXTS[30:])}

    def _generate_examples(self, texts):
        for i, text in enumerate(texts):
            messages = [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": str(i)}]
            yield i, {"text": text, "messages": messages, "number": i}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    MadeTalks(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece(TEXTS * 5, tmp_path_factory.mktemp("t") / "tokenizer.model", 290)


def test_a_split_packs_to_what_its_texts_pack_to(folder, tokenizer, tmp_path):
    path = f"tfds:made_talks?split=train&data_dir={folder}"
    assert is_text(path)
    origin = open_origin(path)
    texts = [d["text"] for d in origin.documents(("text",))]
    assert sorted(texts) == sorted(TEXTS[:30])
    assert (origin.size, origin.position, origin.unit) == (30, 30, "doc")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    packed = packed_on_first_use(path, 64, Packing(), tokenizer, tmp_path / "cache")
    plain = packed_on_first_use(str(tmp_path / "d.jsonl"), 64, Packing(), tokenizer, tmp_path / "cache")
    assert packed.fingerprint == plain.fingerprint


def test_conversations_come_out_of_sequences(folder, tokenizer, tmp_path):
    packing = Packing("chat", template="plain")
    made = build(f"tfds:made_talks:1.0.0?split=train&data_dir={folder}", tmp_path / "p", tokenizer, 128, packing)
    assert made.documents == 30


def test_the_key_is_the_examples_however_the_split_is_written(folder, tmp_path):
    def key(split, path=f"tfds:{folder}/made_talks/1.0.0"):
        return open_origin(f"{path}?split={split}").fingerprint(tmp_path / "memo.json")

    assert key("train[:50%]") == key("train[:15]") != key("train[:14]")
    assert key("train") != key("test") != key("train%2Btest") != key("train")
    assert len(list(open_origin(f"tfds:{folder}/made_talks/1.0.0?split=train[:50%]").documents(("text",)))) == 15


def test_reading_needs_no_tensorflow(folder):
    program = (
        "import sys\n"
        "from jaxpt.data.origins import open_origin\n"
        f"print(len(list(open_origin('tfds:made_talks?split=train&data_dir={folder}').documents(('text',)))))\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["30", "False"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tfds:made_talks?data_dir={folder}", "names no split"),
        ("tfds:made_talks?split=train&datadir={folder}", r"datadir is not an option \(did you mean 'data_dir'\?\)"),
        ("tfds:made_talks?split=valid&data_dir={folder}", "there is no split valid; it has"),
        ("tfds:made_talk?split=train&data_dir={folder}", "no prepared dataset made_talk in .*; prepare it"),
        ("tfds:/nowhere/made_talks/1.0.0?split=train", "no prepared dataset /nowhere"),
    ],
)
def test_a_mistake_in_the_path_is_named_and_downloads_nothing(folder, path, message):
    with pytest.raises(JaxptError, match=message):
        open_origin(path.format(folder=folder))


def test_a_feature_that_is_missing_is_named(folder):
    with pytest.raises(JaxptError, match=r"lacks the feature 'body'; it has .*text"):
        list(open_origin(f"tfds:made_talks?split=train&data_dir={folder}").documents(("body",)))


def test_other_paths_are_text_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    assert isinstance(open_origin(str(tmp_path)), TextFiles)
