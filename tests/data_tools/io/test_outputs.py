"""No command writes onto what it reads, or where the same input would read it the next time."""

import json
import os

import fsspec
import pytest

from data_tools.__main__ import main
from data_tools.io.outputs import check_outputs
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece

pytest.importorskip("resiliparse", reason="resiliparse is not installed (jaxpt[data])")

TEXT = "The quick brown fox jumps over the lazy dog, and then {} more words follow it to the end of the line."
COMMANDS = {
    "clean": ["--preset=gopher"],
    "dedup": ["--exact_only", "--engine=numpy", "--store=../signatures"],
    "decontaminate": ["--eval=../eval.jsonl"],
    "classify": ["--model=../model.bin"],
    "perplexity": ["--train=../eval.jsonl"],
    "longdoc": ["--how=repositories"],
    "extract": [],
    "tokenize": ["--tokenizer=../tokenizer.model"],
    "pack": ["--tokenizer=../tokenizer.model", "--sequence_length=16"],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with raw text in `raw` and in `raw/more`, a file beside it, and a link to `raw`."""
    rows = "".join(
        json.dumps({"text": TEXT.format(i), "id": str(i), "repo": "r", "path": "p.py"}) + "\n" for i in range(9)
    )
    (tmp_path / "raw/more").mkdir(parents=True)
    for name in ("raw/a.jsonl", "raw/b.jsonl", "raw/more/c.jsonl", "eval.jsonl", "web.jsonl"):
        (tmp_path / name).write_text(rows)
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/x.jsonl").symlink_to(tmp_path / "raw/a.jsonl")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


LAYOUTS = {
    "the folder itself": ("{}/raw", "{}/raw"),
    "its glob": ("{}/raw/*.jsonl", "{}/raw"),
    "one file in it": ("{}/raw/a.jsonl", "{}/raw"),
    "the last of three files": ("{0}/web.jsonl, {0}/eval.jsonl,{0}/raw/a.jsonl", "{}/raw"),
    "with a slash behind": ("{}/raw/", "{}/raw//"),
    "by a relative path": ("{}/raw", "../raw"),
    "both relative": ("../raw", "../empty/../raw"),
    "by a link": ("{}/raw", "{}/link"),
    "the input by a link": ("{}/link", "{}/raw"),
    "the input a link to a file": ("{}/linked/x.jsonl", "{}/raw"),
    "the folder of links": ("{}/linked", "{}/linked"),
    "as an address": ("{}/raw", "file://{}/raw"),
    "the input as an address": ("file://{}/raw/*.jsonl", "{}/raw"),
    "a folder inside": ("{}/raw", "{}/raw/clean"),
    "a folder inside that holds input": ("{}/raw", "{}/raw/more"),
    "inside, by a glob": ("{}/raw/*.jsonl", "{}/raw/clean"),
    "inside, by a recursive glob": ("{}/**/*.jsonl", "{}/raw/clean"),
    "inside by a link": ("{}/raw", "{}/link/clean"),
    "deep inside, not there yet": ("{}/raw", "{}/raw/x/y/z"),
    "a folder that holds the input": ("{}/raw", "{}"),
    "a folder that holds a file of it": ("{}/raw/more/c.jsonl", "{}/raw"),
    "its own file": ("{}/web.jsonl", "{}/web.jsonl"),
    "where the glob would find it": ("{}/*/*.jsonl", "{}/clean"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_command_refuses_to_write_where_it_reads(place, capsys, command, layout):
    before = contents(place)
    given, output = (part.format(place) for part in LAYOUTS[layout])
    assert main([command, f"--input={given}", f"--output={output}", *COMMANDS[command]]) == 1
    said = capsys.readouterr().err.strip()
    assert f"--output={output} " in said
    assert "choose a folder of its own" in said
    assert "\n" not in said
    assert contents(place) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_writes_beside_what_it_reads(place, command):
    train_sentencepiece([TEXT.format(i) for i in range(99)], place / "tokenizer.model", 320)
    if command == "classify":
        (place / "labels.jsonl").write_text(
            "".join(json.dumps({"text": TEXT.format(i), "label": "hq" if i % 2 else "cc"}) + "\n" for i in range(200))
        )
        assert main(["classify", f"--train={place}/labels.jsonl", "--model=../model.bin"]) == 0
    before = contents(place)
    for given, output in ((f"{place}/web.jsonl", f"{place}/out"), (f"{place}/raw/a.jsonl", f"{place}/raw/out")):
        assert main([command, f"--input={given}", f"--output={output}", *COMMANDS[command]]) == 0
    after = contents(place)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)


def test_in_the_current_folder_a_glob_that_cannot_match_the_output_is_fine(place, monkeypatch):
    monkeypatch.chdir(place / "raw")
    for pattern in ("*", "*.jsonl", "./*.jsonl", f"{place}/raw/*.jsonl", "[ab].jsonl", "mo*/*.jsonl", "a.jsonl"):
        check_outputs({"--input": pattern}, {"--output": "clean"})
    for pattern in ("*/*.jsonl", "**/*.jsonl", "**.jsonl", "."):
        with pytest.raises(JaxptError, match=r"lies in|holds|write FOLDER/\*\*/\*.jsonl"):
            check_outputs({"--input": pattern}, {"--output": "clean"})


def test_a_second_run_whose_glob_would_match_the_first_output_is_refused(place):
    (place / "clean").mkdir()
    (place / "clean/a.jsonl").write_text("{}\n")
    with pytest.raises(JaxptError, match=r"is the folder of .*clean/a\.jsonl, which is read"):
        check_outputs({"--input": f"{place}/*/*.jsonl"}, {"--output": f"{place}/clean"})


def test_other_folders_and_files_that_a_command_writes_are_checked_too(place, capsys):
    before = contents(place)
    raw = f"{place}/raw"
    for argv, said in (
        (["clean", f"--lines={raw}", "--preset=gopher"], f"--lines={raw}"),
        (["dedup", f"--store={raw}/signatures"], f"--store={raw}/signatures"),
        (["decontaminate", f"--eval={place}/out"], f"--output={place}/out"),
        (["perplexity", f"--train={place}/out/train.jsonl"], f"--output={place}/out"),
    ):
        (place / "out").mkdir(exist_ok=True)
        (place / "out/train.jsonl").write_bytes(before["web.jsonl"])
        assert main([*argv, f"--input={raw}", f"--output={place}/out"]) == 1
        assert said in capsys.readouterr().err
    (place / "out/train.jsonl").unlink()
    labels = f"{raw}/a.jsonl"
    assert main(["classify", f"--train={raw}", f"--model={labels}"]) == 1
    assert f"--model={labels} is one of the files of --train={raw}" in capsys.readouterr().err
    assert contents(place) == before


def test_remote_folders_are_compared_by_their_normal_addresses():
    store = fsspec.filesystem("memory")
    store.pipe_file("/bucket/raw/a.jsonl", b"{}\n")
    for given, output in (
        ("memory://bucket/raw", "memory://bucket/raw"),
        ("memory://bucket/raw/*.jsonl", "memory://bucket/raw/"),
        ("memory://bucket/raw/a.jsonl", "memory:///bucket/x/../raw"),
        ("memory://bucket/raw/*.jsonl", "memory://bucket/raw/clean"),
        ("memory://bucket/raw/*.jsonl", "memory://bucket"),
    ):
        with pytest.raises(JaxptError, match="choose a folder of its own"):
            check_outputs({"--input": given}, {"--output": output})
    check_outputs({"--input": "memory://bucket/raw/*.jsonl"}, {"--output": "memory://bucket/clean"})
    check_outputs({"--input": "memory://bucket/raw"}, {"--output": os.getcwd()})


def test_a_pipeline_does_not_write_its_steps_where_its_input_lies(place, capsys):
    config = place / "config.py"
    config.write_text(
        "def get_config(pattern):\n"
        "    return {'input': pattern, 'steps': [{'command': 'clean', 'options': {'preset': 'gopher'}}]}\n"
    )
    (place / "raw/clean").mkdir()
    (place / "raw/clean/d.jsonl").write_bytes((place / "web.jsonl").read_bytes())
    before = contents(place)
    for given, workdir in (
        ("raw/clean", "raw"),
        ("raw/*.jsonl", "raw"),
        ("link/clean/*", "raw"),
        ("raw/clean/d.jsonl", "raw"),
    ):
        for more in ([], ["--dry_run"]):
            assert main(["run", f"--config={config}:{place}/{given}", f"--workdir={place}/{workdir}", *more]) == 1
            said = capsys.readouterr().err
            assert f"config.steps[0]: folder={place}/raw/clean" in said
            assert "file://" not in said
    assert contents(place) == before


def test_a_mistake_in_the_last_step_is_found_before_the_first_one_s_input_is_read(place, capsys):
    config = place / "config.py"
    config.write_text(
        "def get_config(pattern):\n"
        "    last = {'command': 'dedup', 'inputs': [pattern], 'name': 'raw'}\n"
        "    return {'input': pattern, 'steps': [{'command': 'clean'}, last]}\n"
    )
    before = contents(place)
    assert main(["run", f"--config={config}:{place}/raw/*.jsonl", f"--workdir={place}"]) == 1
    assert f"config.steps[1]: folder={place}/raw is the folder of {place}/raw/a.jsonl" in capsys.readouterr().err
    assert contents(place) == before


def test_a_page_of_inspect_takes_the_place_of_no_data(place, capsys):
    assert main(["clean", f"--input={place}/raw/a.jsonl", f"--output={place}/out", "--preset=gopher"]) == 0
    before = contents(place)
    for name in ("a.jsonl", "removals/a.jsonl.jsonl", "manifests/a.jsonl.json"):
        assert main(["inspect", f"{place}/out", f"--html={place}/out/{name}"]) == 1
        assert "exists and is not what this command writes there" in capsys.readouterr().err
    assert contents(place) == before
    assert main(["inspect", f"{place}/out"]) == 0
    assert main(["inspect", f"{place}/out"]) == 0


def test_without_the_check_the_raw_text_is_overwritten(place, monkeypatch):  # the proofs above can fail
    monkeypatch.setattr("data_tools.commands.clean.check_outputs", lambda *args: None)
    monkeypatch.setattr("data_tools.io.ownership._claim", lambda *args: None)
    before = contents(place)
    assert main(["clean", f"--input={place}/raw/a.jsonl", f"--output={place}/raw", "--preset=gopher"]) == 0
    assert contents(place)["raw/a.jsonl"] != before["raw/a.jsonl"]
