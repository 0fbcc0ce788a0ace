"""Commands that write a model or signatures on a disk that is full: one line with the path, nothing half-written."""

import json

import jax
import numpy as np
import pytest

import data_tools.__main__ as data
from jaxpt import cli
from jaxpt.bundles import save_bundle
from jaxpt.models import Model
from jaxpt.models.init import init_params
from jaxpt.tokenizers import train_sentencepiece
from tests.files.largest_file import largest_file
from tests.models.tiny import config

WORDS = (__doc__ or "").split()
COMMANDS = {
    "reshape": (cli.main, ["--config=configs/reshape/subclone.py", "--config.target.embed=32"], "--from={in}/bundle"),
    "export": (cli.main, [], "--from={in}/bundle"),
    "import": (cli.main, [], "--from={in}/hf"),
    "dedup": (data.main, ["--engine=numpy"], "--input={in}/a.jsonl"),
    "longdoc": (data.main, ["--how=repositories"], "--input={in}/a.jsonl"),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 60)) for _ in range(120)]
    records = ({"text": t, "repo": "r", "path": f"f{i}.py"} for i, t in enumerate(texts))
    (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    tokenizer = train_sentencepiece(texts, folder / "t.model", 300)
    small = config(vocab_size=tokenizer.vocab_size, embed=64, mlp=128)
    save_bundle(Model(small, jax.device_get(init_params(small, 0)), tokenizer, []), folder / "bundle")
    assert cli.main(["export", f"--from={folder}/bundle", f"--to={folder}/hf"]) == 0
    return folder


def run(command, given, target, most=None):
    """Runs a command, where no file may grow beyond `most` bytes: as a full disk, but for the error's name."""
    main, flags, source = COMMANDS[command]
    to = "--to" if main is cli.main else "--output"
    with largest_file(most):
        return main([command, *flags, source.format(**{"in": given}), f"{to}={target}"])


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("most", [4_000, 20_000])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on_with_room(given, tmp_path, capfd, command, most):
    target = tmp_path / "new/target"
    assert run(command, given, target, most) == 1
    printed = capfd.readouterr()
    line = printed.err.strip().splitlines()[-1]
    assert f"{command}: {target}" in line
    assert line.endswith(("choose another target", "choose another place"))
    assert "Traceback" not in printed.err
    assert not [name for name in files(tmp_path) if "partial" in name or "tmp" in name]
    if command in ("reshape", "export", "import"):
        assert not target.exists()
    assert run(command, given, target) == 0
    whole = tmp_path / "undisturbed"
    assert run(command, given, whole) == 0
    assert files(target) == files(whole)


@pytest.mark.parametrize("most", [0, 300])
def test_a_classifier_that_fasttext_cannot_write_is_refused(tmp_path, monkeypatch, most):
    pytest.importorskip("fasttext", reason="fastText is not installed (jaxpt[data])")
    from data_tools.classify.model import Classifier
    from data_tools.classify.recipes import recipe
    from jaxpt.errors import JaxptError

    examples = [(f"{'good' if i % 2 else 'bad'} text {i}", "high" if i % 2 else "low") for i in range(60)]
    classifier = Classifier.train(examples, recipe("quality", dim=4, bucket=100))
    refusal = r"m\.bin: writing failed after \d+ bytes; free space or choose"
    with largest_file(most), pytest.raises(JaxptError, match=refusal):
        classifier.save(tmp_path / "m.bin")
    with largest_file(3_000), pytest.raises(JaxptError, match=r"fastText could not train .the disk is full"):
        Classifier.train(examples, recipe("quality", dim=4, bucket=500))
    assert not list(tmp_path.iterdir())
    classifier.save(tmp_path / "m.bin")
    assert Classifier.load(tmp_path / "m.bin").labels == ["high", "low"]
