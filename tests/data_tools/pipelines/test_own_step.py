"""A data step in one file outside the repository: a command and a step of a pipeline like any other."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from data_tools import commands
from data_tools.__main__ import main
from data_tools.commands import run
from jaxpt.errors import JaxptError

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
def get_config(inputs):
    steps = [{"command": "COMMAND", "name": "first", "options": OPTIONS}, {"command": "dedup", "options": DEDUP}]
    return {"input": inputs, "workers": 1, "steps": steps}
"""
DEDUP = {"engine": "numpy", "exact_only": True}


def file_of_the_docs() -> str:
    """The step that docs/pipeline.md shows."""
    page = (ROOT / "docs/pipeline.md").read_text()
    section = page.partition("## A step of one's own")[2]
    return textwrap.dedent(re.search(r'    """Quiet:.*?\n(?=\n\S)', section, re.DOTALL)[0])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the step's file, which is on Python's path, and raw text, a third of it in capitals."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/quiet.py").write_text(file_of_the_docs())
    (tmp_path / "raw").mkdir()
    for part in "abc":
        rows = [{"id": f"{part}{i}", "text": f"this is text {part} {i} " * 9} for i in range(6)]
        rows[::3] = [{**r, "text": r["text"].upper()} for r in rows[::3]]
        (tmp_path / f"raw/{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield tmp_path
    sys.modules.pop("quiet", None)


def arguments(place, command="quiet:Quiet", options="{}", workdir="work"):
    text = CONFIG.replace("COMMAND", command).replace("OPTIONS", options).replace("DEDUP", str(DEDUP))
    (place / "config.py").write_text(text)
    return [f"--config={place}/config.py:{place}/raw/*.jsonl", f"--workdir={place}/{workdir}"]


def kept(folder):
    return [json.loads(line)["id"] for f in sorted(folder.glob("*.jsonl")) for line in f.read_text().splitlines()]


CALM = [f"{part}{i}" for part in "abc" for i in (1, 2, 4, 5)]


def test_from_a_config_its_options_are_typed_and_its_output_feeds_the_next_step(place, capsys):
    assert run.main(arguments(place, options='{"most": 0.6}')) == 0
    assert "jaxpt-data quiet:Quiet --input=" in capsys.readouterr().out
    assert kept(place / "work/first") == kept(place / "work/dedup") == CALM
    assert run.main([*arguments(place, options='{"most": 0.6}'), "--config.workers=2"]) == 0
    assert "==" not in capsys.readouterr().out, "workers never change an output"
    (place / "work/steps/first.json").unlink()  # the way to have a step done again
    assert run.main(arguments(place, options='{"most": 0.6}')) == 0
    assert "== first" in capsys.readouterr().out
    assert run.main(arguments(place, options='{"most": 1}')) == 0  # a whole number for a float; the step runs anew
    assert len(kept(place / "work/first")) == 18


def test_from_the_command_line_in_the_place_of_another_whose_options_are_dropped(place, capsys):
    flags = ["--config.steps[0].command=quiet:Quiet", "--config.steps[0].options.most=0.6"]
    assert run.main(arguments(place, "clean", '{"preset": "gopher", "alarm": 0.3}') + flags) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "drop" in line]
    assert "--config.steps[0].command=quiet:Quiet" in line
    assert re.search("clean.*preset", line)
    assert "--most=0.6" in said
    assert kept(place / "work/first") == CALM


def test_as_a_command(place, capsys):
    assert main(["quiet:Quiet", f"--input={place}/raw", f"--output={place}/out", "--most=0.6"]) == 0
    assert kept(place / "out") == CALM
    with pytest.raises(SystemExit):
        main(["quiet:Quiet", "--help"])
    said = capsys.readouterr().out
    assert "drop documents that are written in capitals" in said
    assert "share of letters that may be capitals" in said


def test_a_file_in_the_room_is_a_command_and_a_step_by_its_name_with_nothing_else_touched(place, capsys, monkeypatch):
    (place / "own/quiet_too.py").write_text((place / "own/quiet.py").read_text())
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(place / "own")])
    try:
        assert main(["--help"]) == 0
        assert "  quiet-too      drop documents that are written in capitals\n" in capsys.readouterr().out
        for spelling in ("quiet_too", "quiet-too"):  # as a pipeline's config and its table write it, and as flags are
            assert main([spelling, f"--input={place}/raw", f"--output={place}/{spelling}", "--most=0.6"]) == 0
            assert kept(place / spelling) == CALM
        assert run.main(arguments(place, "quiet_too", '{"most": 0.6}')) == 0
        assert kept(place / "work/first") == CALM
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run.main(["--help-config=steps.options"])
        assert "  command=quiet_too: Drop documents that are written in capitals\n" in capsys.readouterr().out
    finally:
        sys.modules.pop("data_tools.commands.quiet_too", None)
        sys.modules.pop("data_tools.commands.quiet", None)


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("quiet:Quiet", '{"mots": 0.5}', r"config\.steps\[0\]\.options\.mots .*did you mean 'most'"),
        ("quiet:Quiet", '{"most": "half"}', r"config\.steps\[0\]\.options\.most .*a number"),
        ("quiet:Quiett", "{}", r"config\.steps\[0\]\.command .*did you mean 'Quiet'"),
        ("quite:Quiet", "{}", r"config\.steps\[0\]\.command .*no module"),
        ("quiet:DropLoud", "{}", r"config\.steps\[0\]\.command .*DataStep"),
        ("quiet", "{}", r"config\.steps\[0\]\.command .*not a data step"),
    ],
)
def test_mistakes_name_the_key_before_anything_is_written(place, command, options, said):
    with pytest.raises(JaxptError, match=said):
        run.main(arguments(place, command, options))
    assert not (place / "work").exists()


def test_killed_and_run_again_it_leaves_the_same_bytes(place):
    assert run.main(arguments(place, workdir="whole")) == 0
    command = [sys.executable, "-m", "data_tools", "run", *arguments(place)]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{place}/own", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (place / "work/first/manifests/a.jsonl.json").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (place / "work/dedup/dedup.json").exists(), "it was killed on the way"
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for step in ("first", "dedup"):
        for file in (place / "whole" / step).rglob("*.jsonl*"):
            other = place / "work" / file.relative_to(place / "whole")
            assert "signatures" in file.parts or other.read_bytes() == file.read_bytes()
