"""What a newcomer mistypes or leaves out: one line that names the thing and the way out."""

import os

import pytest

from data_tools.__main__ import main as data_tools
from jaxpt import cli
from jaxpt.cli.terminal import table
from jaxpt.cli.version import VERSION

USERS = {
    "attribute.py": ("c = ConfigDict()\n    c.modl.layers = 3", "attribute.py:5: c.modl.layers = 3: AttributeError"),
    "library.py": ("import json\n    return json.loads('{')", "library.py:5: return json.loads('{'): JSONDecodeError"),
    "other.py": ("from broken import x", "broken.py:1: x = 1 / 0: ZeroDivisionError: division by zero"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken.py").write_text("x = 1 / 0\n")
    for name, (body, _) in USERS.items():
        (tmp_path / name).write_text(
            f"from ml_collections import ConfigDict\n\ndef get_config():\n    {body}\n    return {{}}\n"
        )
    return tmp_path


def said(capsys, *argv, program=cli.main):
    try:
        code = program(list(argv))
    except SystemExit as left:
        code = left.code
    err = capsys.readouterr().err
    assert code in (1, 2)
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("name", USERS)
def test_an_error_in_a_config_shows_the_line_of_the_user_and_not_ours(here, capsys, name):
    line = said(capsys, "train", f"--config={name}", "--workdir=w")
    assert USERS[name][1] in line
    assert "site-packages" not in line
    assert "/jaxpt/" not in line


def test_a_config_that_cannot_be_parsed_is_named_with_its_line(here, capsys):
    (here / "torn.py").write_text("def get_config(:\n")
    assert "torn.py:1: def get_config(:: SyntaxError" in said(capsys, "train", "--config=torn.py", "--workdir=w")


def test_a_config_that_needs_an_argument_says_which(here, capsys):
    (here / "needs.py").write_text('def get_config(folder):\n    """`folder`: where the text is."""\n')
    line = said(capsys, "train", "--config=needs.py", "--workdir=w")
    assert "needs an argument, folder: --config=needs.py:FOLDER (`folder`: where the text is.)" in line
    (here / "two.py").write_text("def get_config(a, b): ...\n")
    assert "takes more than one argument" in said(capsys, "train", "--config=two.py:x", "--workdir=w")


@pytest.mark.parametrize(
    "argv",
    [
        ["import", "--from=meta-llama/Llama-3.2-1B", "--to=b"],
        ["generate", "--model=meta-llama/Llama-3.2-1B", "--prompt=a"],
        ["inspect", "meta-llama/Llama-3.2-1B"],
        ["export", "--from=meta-llama/Llama-3.2-1B", "--to=b"],
    ],
)
def test_a_name_on_the_hub_says_how_it_becomes_a_folder(here, capsys, argv):
    line = said(capsys, *argv)
    assert "is no folder here; as a name on the Hugging Face hub it must be downloaded first" in line
    assert "hf download meta-llama/Llama-3.2-1B --local-dir Llama-3.2-1B" in line


def test_a_path_that_is_not_there_names_the_folder_that_it_is_relative_to_and_its_neighbour(here, capsys):
    (here / "runs").mkdir()
    line = said(capsys, "inspect", "rusn")
    assert f"rusn does not exist in {os.getcwd()}, the folder that it is relative to (did you mean 'runs'?)" in line
    line = said(
        capsys, "train", f"--config={cli.__file__.split('/jaxpt/cli')[0]}/configs/tiny.py:packed", "--workdir=w"
    )
    assert f"packed is not a packed source (it does not exist in {os.getcwd()}" in line
    line = said(capsys, "clean", "--input=txt/*.jsonl", "--output=o", "--preset=c4", program=data_tools)
    assert f"(it was looked for as {os.getcwd()}/txt/*.jsonl)" in line


def test_both_programs_say_their_version(capsys):
    for program, name in ((cli.main, "jaxpt"), (data_tools, "jaxpt-data")):
        assert program(["--version"]) == 0
        assert capsys.readouterr().out.startswith(f"{name} {VERSION}, JAX ")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_of_a_table_is_wider_than_the_terminal(monkeypatch, columns):
    rows = [["a path", "x/" * 200, 12_345], ["words", "of a long sentence " * 20, 1]]
    many = [[0, "reached", *[0.25] * 12]]
    head = ["from step", "", *[f"source_{i}" for i in range(12)]]
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, table(["a", "b", "n"], rows).splitlines())) > 120  # a file or a pipe gets whole lines
    monkeypatch.setenv("COLUMNS", str(columns))
    text = table(["a", "b", "n"], rows)
    assert max(map(len, text.splitlines())) <= columns
    assert text.count("x") == 200, "nothing is cut off"
    wide = table(head, many)
    assert max(map(len, wide.splitlines())) <= columns
    assert all(name in wide for name in head)
