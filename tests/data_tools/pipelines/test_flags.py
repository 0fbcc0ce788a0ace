"""Flags, options and help of every step follow from its fields, and nothing else says them."""

import dataclasses
import hashlib
import json
from typing import get_args, get_type_hints

import pytest

from data_tools.pipelines import flags
from data_tools.pipelines.pipeline import Pipeline
from data_tools.pipelines.planning import plan
from data_tools.pipelines.running import state
from data_tools.pipelines.step import DataStep
from jaxpt.config.choice import find, names
from jaxpt.config.file import load
from jaxpt.data.packing import PACKERS
from jaxpt.errors import JaxptError

OTHERS = {int: 7, float: 0.25, str: "x", bool: True}


def other_than_default(cls, field):
    """A value that the flag can state and the default is not."""
    hint = flags.bare(get_type_hints(cls)[field.name])
    if hint == tuple[str, ...]:
        return ("a=1", "b=2")
    return OTHERS[hint] if hint in OTHERS else get_args(hint)[-1]


def parse(cls, argv):
    return flags.parse(cls, argv, "jaxpt-data x", "", "")


def test_every_command_but_run_and_inspect_is_a_step():
    known = ["chats", "classify", "clean", "decontaminate", "dedup", "extract", "longdoc", "pack", "perplexity"]
    known += ["tokenize"]
    assert names(DataStep) == known


@pytest.mark.parametrize("name", names(DataStep))
def test_a_command_line_states_every_field_and_is_written_back(name):
    cls = find(DataStep, name, "name")
    step = cls(**{f.name: other_than_default(cls, f) for f in dataclasses.fields(cls)})
    every = [f.name for f in dataclasses.fields(cls)]
    assert parse(cls, flags.arguments(step, every)) == step


@pytest.mark.parametrize("name", names(DataStep))
def test_what_a_command_line_leaves_out_has_the_field_s_default(name):
    cls = find(DataStep, name, "name")
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    given = {n: other_than_default(cls, f) for f in dataclasses.fields(cls) if (n := f.name) in required}
    assert parse(cls, flags.arguments(cls(**given), required)) == cls(**given)


@pytest.mark.parametrize("name", names(DataStep))
def test_help_has_a_line_for_every_field(name, capsys):
    cls = find(DataStep, name, "name")
    with pytest.raises(SystemExit):
        cls.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert cls.summary() in said
    for field in dataclasses.fields(cls):
        assert f"--{field.name}" in said
        assert field.metadata["doc"], field.name
        assert " ".join(field.metadata["doc"].split()[:2]) in said, field.name


def test_what_is_no_flag_is_refused_with_exit_code_2(capsys):
    for argv, said in (
        (["--input=a", "--output=b", "--workerz=2"], "did you mean '--workers'"),
        (["--input=a", "--output=b", "--workers=many"], "invalid int value: 'many'"),
        (["--output=b"], "--input"),
    ):
        with pytest.raises(SystemExit) as stop:
            find(DataStep, "extract", "name").main(argv)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_a_tuple_is_a_flag_to_repeat_and_both_spellings_of_pack_s_flags_stay():
    clean = parse(find(DataStep, "clean", "name"), ["--set=words.least=2", "--set=a.on=false"])
    assert clean.set == ("words.least=2", "a.on=false")
    pack = parse(find(DataStep, "pack", "name"), ["--input=a", "--output=b", "--sequence-length=8", "--no-eos"])
    assert (pack.sequence_length, pack.no_eos, pack.bos) == (8, True, False)


def test_the_packers_that_pack_names_are_those_there_are():
    assert get_args(get_type_hints(find(DataStep, "pack", "name"))["packer"]) == tuple(PACKERS)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plans a pipeline of these steps over one file in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "b.bin").write_text("m")

    def run(steps, *overrides, **shared):
        (tmp_path / "c.json").write_text(json.dumps({"input": "./a.jsonl", "steps": steps, **shared}))
        return plan(load(Pipeline, "c.json", overrides), "work")

    return run


def test_options_may_be_written_as_a_flag_allows(planned):
    (one,) = planned([{"command": "tokenize", "options": {"keep": ["source", "lang"], "tokenizer": "t"}}])
    assert one.step.keep == "source,lang"
    (one,) = planned([{"command": "classify", "options": {"model": "b.bin", "set": {"dim": 5}, "top_tokens": 4e6}}])
    assert (one.step.set, one.step.top_tokens) == (("dim=5.0",), 4_000_000)
    (one,) = planned([{"command": "clean", "options": {"set": "words.least=2", "alarm": 1}}])
    assert (one.step.set, one.step.alarm) == (("words.least=2",), 1.0)


def test_the_pipeline_gives_what_a_step_has_a_field_for_and_none_takes_it_back(planned):
    steps = [
        {"command": "tokenize"},
        {"command": "pack", "options": {"sequence_length": 8, "tokenizer": None}},
    ]
    first, second = planned(steps, tokenizer="t", workers=3)
    assert (first.step.tokenizer, second.step.tokenizer) == ("t", None)
    assert "workers" not in str(first.argv), "it has none"
    assert second.step.skip_existing
    assert "--skip_existing" in second.argv


def test_a_flag_states_an_option_that_the_file_leaves_out(planned):
    (one,) = planned([{"command": "dedup"}], "--config.steps[0].options.least_tokens=5")
    assert one.step.least_tokens == 5
    (same,) = planned([{"command": "dedup", "options": {"least_tokens": 5}}])
    assert one.key == same.key
    for key, said in (("least_token", "did you mean 'least_tokens'"), ("output", "decided by the pipeline")):
        with pytest.raises(JaxptError, match=said):
            planned([{"command": "dedup"}], f"--config.steps[0].options.{key}=5")


def test_a_key_is_made_of_what_is_stated_as_it_always_was(planned):
    """By hand, in the form of earlier versions: whole numbers as floats, no option that changes no output."""
    options = {"model": "./b.bin", "order": 3, "batch_size": 4, "low": 0.1, "source_field": "lang"}
    (one,) = planned([{"command": "perplexity", "options": options}], workers=7)

    def files(*contents):
        digests = [hashlib.sha256(c).hexdigest() for c in contents]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()

    facts = {"low": 0.1, "model": "./b.bin", "order": 3.0, "source_field": "lang", "text_field": "text"}
    text = json.dumps(["perplexity", facts, files(b"m"), [files(b'{"text": "x"}\n')]], sort_keys=True)
    assert one.key == hashlib.sha256(text.encode()).hexdigest()
    (other,) = planned([{"command": "perplexity", "options": {**options, "batch_size": 8}}], workers=1)
    assert other.key == one.key
    (other,) = planned([{"command": "perplexity", "options": {**options, "order": 4}}], workers=1)
    assert other.key != one.key  # the proof above can fail
    assert state(one, "work") == "to do"


def test_a_required_option_that_nobody_states_is_named(planned):
    missing = r"config\.steps\[0\] \(pack\) needs sequence_length; give --config\.steps\[0\]\.options\."
    with pytest.raises(JaxptError, match=missing):
        planned([{"command": "pack"}])
    with pytest.raises(JaxptError, match=r"needs eval; give --config\.eval=…$"):
        planned([{"command": "decontaminate"}])
