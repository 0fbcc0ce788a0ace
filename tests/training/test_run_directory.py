"""What a run directory says about the run is covered by digests: read, resumed and loaded as it was written or not."""

import json
import shutil

import pytest

from jaxpt import api, tokenizers
from jaxpt.checkpoints import run_files
from jaxpt.config import file as config_file
from jaxpt.errors import JaxptError
from jaxpt.files import digests
from jaxpt.reporting import write_report
from jaxpt.tokenizers import train_sentencepiece
from jaxpt.training import run_directory, starting_point
from jaxpt.training.config import RunConfig
from tests.files.flips import assert_never_silent, outcomes
from tests.training.saved import LINEAGE, opened, prepared, save
from tests.training.tiny import MODEL

SMALL = ("config.json", "model.json", "lineage.json", "digests.json", "tokenizer/tokenizer.model")


def words(folder, numbers=7):
    texts = [f"the quick brown fox number {n} jumps over {n * numbers} lazy dogs" for n in range(200)]
    return train_sentencepiece(texts, folder / "tokenizer.model", 300)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    tokenizer = words(folder / "words")
    prepared(folder / "run", tokenizer)
    saved = opened(folder / "run")
    save(saved, 4)
    saved.close()
    return folder / "run", tokenizer


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def tokenizer(made):
    return made[1]


def contents(workdir):
    return {name: (workdir / name).read_bytes() for name in SMALL}


def everything(workdir):
    """What is read of the small files by all who read them."""
    config = config_file.load(RunConfig, str(workdir / "config.json"))
    found = tokenizers.load(workdir / "tokenizer") if run_files.has_tokenizer(workdir) else None
    lineage, model = run_files.read_lineage(workdir), run_files.stored_model(workdir)
    return config, model, lineage, found.fingerprint, found.settings


@pytest.mark.parametrize("name", SMALL)
def test_damage_is_noticed_by_who_reads_it_or_is_harmless(run, name):
    size = (run / name).stat().st_size
    assert_never_silent(outcomes(run / name, lambda: everything(run), max(1, size // 80)))


@pytest.mark.parametrize("name", SMALL)
def test_damage_is_noticed_when_a_model_is_loaded_or_is_harmless(run, name):
    def load():
        model = api.load(run)
        return model.config, model.lineage, model.tokenizer.fingerprint

    size = (run / name).stat().st_size
    counts = outcomes(run / name, load, max(1, size // 5))
    assert not [what for what in counts if what not in ("noticed", "harmless")], counts
    assert counts["noticed"] or name == "config.json"  # which is not read


@pytest.mark.parametrize("name", SMALL)
def test_on_resume_damage_is_mended_exactly_or_refused(run, tokenizer, name):
    """The same command gives every small file the content that it had, which its digest proves."""
    size = (run / name).stat().st_size

    def resume():
        prepared(run, tokenizer)
        return contents(run)

    counts = outcomes(run / name, resume, max(1, size // 40))
    assert not [what for what in counts if what not in ("noticed", "harmless")], counts


def test_what_was_mended_is_said(run, tokenizer):
    good = (run / "model.json").read_text()
    (run / "model.json").write_text(good.replace('"theta": 10000.0', '"theta": 10001.0'))
    (run / "tokenizer" / "tokenizer.model").unlink()
    (line, other) = prepared(run, tokenizer)
    assert "model.json was damaged; written again exactly as it was" in line
    assert "tokenizer.model was damaged; written again exactly as it was" in other
    assert (run / "model.json").read_text() == good
    assert prepared(run, tokenizer) == []


def test_a_damaged_config_is_not_replaced_by_another(run, tokenizer):
    """Whether the seed is the same cannot be known."""
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(JaxptError, match=r"config\.json is damaged: .*; restore it from a copy, or start the run with"):
        prepared(run, tokenizer, metrics={"every": 7})
    assert '"seed": 1' in (run / "config.json").read_text()
    (line,) = prepared(run, tokenizer)
    assert "config.json was damaged; written again exactly as it was" in line


def test_a_damaged_model_or_lineage_is_not_replaced_by_what_the_config_says_today(run, tokenizer):
    for name in ("model.json", "lineage.json"):
        shutil.copy(run / name, run / "kept")
        (run / name).write_text((run / name).read_text().replace("4096", "4090").replace('"theta": 1', '"theta": 2'))
        bad = (run / name).read_bytes()
        with pytest.raises(JaxptError, match=rf"{name} is damaged"):
            run_directory.prepare(run, saved_config(), MODEL.replace(max_positions=4096), tokenizer, [{"op": "other"}])
        assert (run / name).read_bytes() == bad
        shutil.copy(run / "kept", run / name)


def saved_config():
    from tests.training.saved import config

    return config()


def test_another_tokenizer_or_model_is_refused(run, tokenizer, tmp_path):
    other = words(tmp_path / "other", numbers=11)
    with pytest.raises(JaxptError, match=r"holds a run with the tokenizer's fingerprint='\w+', now it is '\w+'; take"):
        prepared(run, other)
    with pytest.raises(JaxptError, match=r"the tokenizer's fingerprint='\w+', now it is 'none'"):
        prepared(run, None)
    with pytest.raises(JaxptError, match=r"holds a run with the model's max_positions=\d+, now it is 4096"):
        prepared(run, tokenizer, MODEL.replace(max_positions=4096))
    assert prepared(run, tokenizer) == []


def test_where_a_run_began_stays_what_it_was(run, tokenizer):
    """What `init_from` names may have trained on since."""
    run_directory.prepare(run, saved_config(), MODEL, tokenizer, [{"op": "later"}])
    assert run_files.read_lineage(run) == LINEAGE
    begun = starting_point.as_begun(run)
    assert begun.lineage == LINEAGE
    assert begun.model == MODEL
    shutil.rmtree(run / "checkpoints")  # before its first checkpoint a run begins anew
    run_directory.prepare(run, saved_config(), MODEL, tokenizer, [{"op": "later"}])
    assert run_files.read_lineage(run) == [{"op": "later"}]


@pytest.mark.parametrize("first", [True, False])
def test_killed_while_it_writes_a_directory_is_whole(run, tokenizer, tmp_path, monkeypatch, first):
    """Every order of writes up to a kill is read, and gone on from."""
    replace, left = digests._replace, [0]

    class Killed(BaseException):
        pass

    def counted(file, content):
        if not left[0]:
            raise Killed
        left[0] -= 1
        replace(file, content)

    for writes in range(12):
        workdir = tmp_path / f"new{writes}"
        if not first:
            shutil.copytree(run, workdir)
        with monkeypatch.context() as patch:
            patch.setattr(digests, "_replace", counted)
            left[0] = writes
            try:
                prepared(workdir, tokenizer, metrics={"every": 9})
                finished = True
            except Killed:
                finished = False
        if not first:
            everything(workdir)
        prepared(workdir, tokenizer, metrics={"every": 10})
        assert everything(workdir)[0].metrics.every == 10
        assert digests.open_digests(workdir).files.keys() == set(SMALL) - {"digests.json"}
        assert all(len(a) == 1 for a in digests.open_digests(workdir).files.values())
        if finished:
            return
    pytest.fail("it was never finished")


def before_there_were_digests(workdir):
    """Makes a run what af7ccdc wrote."""
    facts = json.loads((workdir / "model.json").read_text())
    del facts["format"]
    (workdir / "model.json").write_text(json.dumps(facts, indent=2) + "\n")
    (workdir / "digests.json").unlink()


def test_a_run_from_before_digests_opens_and_gets_them_when_it_goes_on(run, tokenizer, monkeypatch, capsys):
    before_there_were_digests(run)
    monkeypatch.setattr(digests, "_reported", False)
    assert api.load(run).lineage[0] == LINEAGE[0]
    everything(run)
    assert capsys.readouterr().err.count("carry no digests") == 1
    assert prepared(run, tokenizer) == []
    assert_never_silent(outcomes(run / "lineage.json", lambda: everything(run), 9))


def test_of_a_run_from_before_digests_another_tokenizer_is_refused(run, tokenizer, tmp_path):
    before_there_were_digests(run)
    other = words(tmp_path / "other", numbers=11)
    for file in other.files:
        shutil.copy(file, run / "tokenizer" / file.name)
    with pytest.raises(JaxptError, match=r"holds a run with the tokenizer's fingerprint"):
        prepared(run, tokenizer)


def test_without_digests_damage_is_silent(run):  # the proofs above can fail
    before_there_were_digests(run)
    counts = outcomes(run / "lineage.json", lambda: everything(run), 1)
    assert any(what.endswith("silent") for what in counts)


def test_digests_that_are_gone_are_missed(run, tokenizer):
    (run / "digests.json").unlink()
    with pytest.raises(JaxptError, match=r"digests\.json is missing, model\.json says that it must be there"):
        api.load(run)
    with pytest.raises(JaxptError, match=r"digests\.json is missing"):
        prepared(run, tokenizer, metrics={"every": 7})
    (line,) = prepared(run, tokenizer)  # the same command: every file is what it should be
    assert "digests.json was damaged; written again, the files are whole" in line
    everything(run)


def test_a_report_of_damage_is_one_line(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 3.0, "stage": "s", "tokens": 1}\n')
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"learning_rate": 0.01', '"learning_rate": 0.03'))
    with pytest.raises(JaxptError, match=r"config\.json is damaged"):
        write_report(run)
    with pytest.raises(JaxptError, match=r"config\.json is damaged: .*copy it to a file of your own to change it"):
        config_file.load(RunConfig, str(run / "config.json"))
