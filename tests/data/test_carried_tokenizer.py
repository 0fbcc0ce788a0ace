"""A packed source carries its tokenizer: a run takes it from there, and what it makes can speak."""

import json
import shutil

import fsspec
import pytest

from jaxpt import cli, tokenizers
from jaxpt.checkpoints.run_files import stored_model
from jaxpt.data import PackedSource
from jaxpt.data.build import build, build_tokenized
from jaxpt.data.tokenized import TokenizedDocuments
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece
from tests.commands.test_train_on_text import MODEL
from tests.evaluation import sums

CONFIG = """
def get_config(source):
    return dict(
        model={model},
        sources=dict(sums=dict(path=source)),
        stages=[dict(duration="2 steps", batch_size=8, sequence_length=64, mixture=dict(sums=1))],
        metrics=dict(tensorboard=False),
    )
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried")
    sums.write(folder / "text.jsonl", sums.texts(0, 60))
    tokenizer = train_sentencepiece(sums.texts(0, 60), folder / "tokenizer.model", 300)
    train_sentencepiece(sums.texts(50, 60), folder / "other" / "tokenizer.model", 290)
    build(str(folder / "text.jsonl"), folder / "packed", tokenizer, 64)
    (folder / "config.py").write_text(CONFIG.format(model=MODEL))
    return folder


def run(made, source, workdir, *more):
    return cli.main(["train", f"--config={made / 'config.py'}:{source}", f"--workdir={workdir}", *more])


def without_tokenizer(source, target):
    """A copy as an earlier version wrote it."""
    shutil.copytree(source, target)
    shutil.rmtree(target / "tokenizer")
    (target / "digests.json").unlink()
    return target


def test_it_is_the_tokenizer_that_made_the_ids(made):
    source = PackedSource.open(made / "packed")
    carried = source.tokenizer()
    assert carried.fingerprint == source.tokenizer_fingerprint
    assert carried.encode("3 plus 4") == tokenizers.load(made / "tokenizer.model").encode("3 plus 4")


def test_it_is_no_part_of_the_content(made, tmp_path):
    old = PackedSource.open(without_tokenizer(made / "packed", tmp_path / "old"))
    assert old.fingerprint == PackedSource.open(made / "packed").fingerprint
    assert old.tokenizer() is None


def test_a_run_takes_it_generates_and_is_exported_with_it(made, tmp_path, capsys):
    assert run(made, made / "packed", tmp_path / "run") == 0
    assert (
        tokenizers.load(tmp_path / "run/tokenizer").fingerprint
        == PackedSource.open(made / "packed").tokenizer_fingerprint
    )
    assert cli.main(["generate", f"--model={tmp_path / 'run'}", "--prompt=3 plus", "--max_new_tokens=2"]) == 0
    assert cli.main(["export", f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'hf'}"]) == 0
    assert (tmp_path / "hf/tokenizer.model").is_file()
    assert "no tokenizer" not in capsys.readouterr().out


def test_a_source_of_an_earlier_version_trains_as_before_and_its_export_says_what_is_missing(made, tmp_path, capsys):
    old = without_tokenizer(made / "packed", tmp_path / "old")
    assert run(made, old, tmp_path / "run") == 0
    assert not (tmp_path / "run/tokenizer").exists()
    assert cli.main(["export", f"--from={tmp_path / 'run'}", f"--to={tmp_path / 'hf'}"]) == 0
    assert f"{tmp_path / 'run'} has no tokenizer" in capsys.readouterr().out
    shutil.rmtree(old)
    shutil.copytree(made / "packed", old)  # packed again
    longer = "--config.stages[0].duration=3 steps"
    assert run(made, old, tmp_path / "run", longer) == 0
    assert "the run had no tokenizer" in capsys.readouterr().out
    assert (tmp_path / "run/tokenizer").is_dir()


def test_a_run_keeps_it_when_the_source_has_lost_it(made, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(made / "packed", source)
    assert run(made, source, tmp_path / "run") == 0
    shutil.rmtree(source / "tokenizer")
    (source / "digests.json").unlink()
    assert run(made, source, tmp_path / "run", "--config.stages[0].duration=3 steps") == 0
    assert stored_model(tmp_path / "run").vocab_size == 300
    assert (tmp_path / "run/tokenizer").is_dir()


def test_another_tokenizer_in_the_config_is_refused(made, tmp_path, capsys):
    other = f"--config.tokenizer={made / 'other'}"
    assert run(made, made / "packed", tmp_path / "run", other) == 1
    assert "was packed with tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["bytes", "another", "left over"])
def test_a_damaged_tokenizer_is_noticed(made, tmp_path, damage):
    source = tmp_path / "source"
    shutil.copytree(made / "packed", source)
    file = next((source / "tokenizer").glob("*.model"))
    if damage == "bytes":
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
    elif damage == "another":
        shutil.copyfile(made / "other/tokenizer.model", file)
        (source / "digests.json").unlink()
    else:
        (source / "tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(JaxptError, match=r"damaged|the tokens were made with|was not written with the rest"):
        PackedSource.open(source).verify()


def test_tokenized_documents_hand_it_on(made, tmp_path):
    from data_tools.__main__ import main

    arguments = [
        f"--input={made / 'text.jsonl'}",
        f"--output={tmp_path / 't'}",
        f"--tokenizer={made / 'tokenizer.model'}",
    ]
    assert main(["tokenize", *arguments]) == 0
    packed = build_tokenized(TokenizedDocuments(tmp_path / "t"), tmp_path / "packed", 64)
    assert packed.tokenizer().fingerprint == packed.tokenizer_fingerprint


def test_a_source_at_an_address_brings_it_along(made, tmp_path):
    fs = fsspec.filesystem("memory")
    fs.put(str(made / "packed"), "/carried/packed", recursive=True)
    source = PackedSource.open("memory://carried/packed", tmp_path / "cache")
    assert source.tokenizer().fingerprint == source.tokenizer_fingerprint
    fs.rm("/carried/packed/tokenizer", recursive=True)
    assert source.tokenizer() is None


def test_tiny_fits_vocabulary_row_length_and_number_of_rows(made, tmp_path):
    from jaxpt.config.file import load
    from jaxpt.training.config import RunConfig

    tiny = "configs/tiny.py"
    config = load(RunConfig, f"{tiny}:{made / 'packed'}")
    rows = PackedSource.open(made / "packed").rows
    stage = config.stages[0]
    assert (config.model.vocab_size, stage.sequence_length, stage.batch_size) == (300, 64, 16)
    assert stage.steps == rows // 16
    few = build(str(made / "text.jsonl"), tmp_path / "few", tokenizers.load(made / "tokenizer.model"), 2048)
    stage = load(RunConfig, f"{tiny}:{tmp_path / 'few'}").stages[0]
    assert 0 < stage.steps * stage.batch_size <= few.rows
    assert stage.schedule.name == ("wsd" if stage.steps >= 5 else "constant")
    assert json.loads((tmp_path / "few/source.json").read_text())["rows"] == few.rows
