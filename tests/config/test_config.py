"""A config is checked in one place: keys, types, values, overrides."""

import os
import re
import sys
import typing
from pathlib import Path

import pytest

from jaxpt.config.file import load
from jaxpt.config.hints import is_section, keys_of
from jaxpt.config.schema import build
from jaxpt.errors import JaxptError
from jaxpt.training.config import RunConfig
from jaxpt.training.history import until, whole

FILE = """
from ml_collections import ConfigDict
def get_config(size="2"):
    c = ConfigDict()
    c.model = dict(preset="tiny")
    c.sources = dict(code=dict(path="x"), prose=dict(path="y"))
    stage = dict(duration="10 steps", batch_size=4, sequence_length=16, mixture=dict(code=1, prose=int(size)))
    c.stages = [dict(stage), dict(stage, name="anneal", schedule=dict(name="wsd"))]
    return c
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.py"
    path.write_text(FILE)
    return str(path)


def refused(file, *overrides):
    with pytest.raises(JaxptError) as error:
        load(RunConfig, file, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_fill_what_the_file_does_not_state(file):
    config = load(RunConfig, file)
    assert config.checkpoint.keep == 3
    assert config.stages[0].name == "stage0"
    assert config.stages[1].name == "anneal"
    assert config.stages[1].schedule.name == "wsd"
    assert config.stages[0].mixture == {"code": 1.0, "prose": 2.0}
    assert sum(leg.tokens for leg in until(whole(config.stages), 15)) == 15 * 64


def test_groups_in_a_mixture_are_keys_like_others(file, tmp_path):
    grouped = FILE.replace(
        "mixture=dict(code=1, prose=int(size))", "mixture=dict(g=dict(weight=1, sources=dict(code=1)))"
    )
    (tmp_path / "grouped.py").write_text(grouped)
    overrides = ["--config.stages[0].mixture.g.sources.code=0.5", "--config.stages[1].mixture_unit=tokens"]
    config = load(RunConfig, str(tmp_path / "grouped.py"), overrides)
    assert config.stages[0].mixture == {"g": {"weight": 1.0, "sources": {"code": 0.5}}}
    assert config.stages[1].mixture_unit == "tokens"
    message = refused(str(tmp_path / "grouped.py"), "--config.stages[0].mixture.g.sources.cod=0.5")
    assert "mixture.cod: there is no source 'cod' (did you mean 'code'?)" in message
    message = refused(file, "--config.sources.code.when_exhausted=renormalize")
    assert "did you mean 'renormalise'?" in message or "'renormalise'" in message


def test_the_argument_after_the_colon_reaches_get_config(file):
    assert load(RunConfig, file + ":5").stages[0].mixture["prose"] == 5.0


def test_overrides_reach_every_level_and_keys_the_file_does_not_state(file):
    config = load(
        RunConfig,
        file,
        [
            "--config.seed=7",
            "--config.stages[1].learning_rate=1e-3",
            "--config.stages[0].mixture.code=0.25",
            "--config.sources.code.repeat=2",
            "--config.model.layers=3",
            "--config.checkpoint.keep_every=100 steps",
            "--config.optimizer.clip_norm=None",
            "--config.stages[0].freeze=('vocab',)",
            "--config.metrics.tensorboard=false",
        ],
    )
    assert (config.seed, config.stages[1].learning_rate, config.stages[0].learning_rate) == (7, 1e-3, None)
    assert config.stages[0].mixture["code"] == 0.25
    assert config.sources["code"].repeat == 2
    assert config.model.layers == 3
    assert config.checkpoint.keep_every == "100 steps"
    assert config.optimizer.clip_norm is None
    assert config.stages[0].freeze == ("vocab",)
    assert config.metrics.tensorboard is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.sead=1", "config.sead is not a key (did you mean 'seed'?)"),
        (
            "--config.stages[1].lerning_rate=1",
            "config.stages[1].lerning_rate is not a key (did you mean 'learning_rate'?)",
        ),
        ("--config.sources.cod.repeat=2", "config.sources.cod is not a key (did you mean 'code'?)"),
        ("--config.stages[2].name=x", "config.stages has 2 entries, there is no config.stages[2]"),
        ("--config.seed=1.5", "--config.seed=1.5: it must be a whole number"),
        ("--config.seed=None", "config.seed is None"),
        ("--config.stages[0].batch_size=many", "--config.stages[0].batch_size=many"),
        ("--config.stages[0].load=param", "must be one of params, params+optimizer"),
        ("--config.stages[0].duration=3 stepps", "config.stages[0].duration is '3 stepps'"),
        ("--config.stages[0].batch_size=0", "config.stages[0].batch_size is 0, it must be at least 1"),
        ("--config.stages[0].microbatches=3", "not a multiple of microbatches (3)"),
        ("--config.checkpoint.every=0 steps", "config.checkpoint.every is '0 steps'"),
        ("--confg.seed=1", "--confg.seed=1 is not an argument"),
        ("--config.optimizer.learning_rate=fast", "--config.optimizer.learning_rate=fast: it must be a number"),
        ("--config.stages[0].learning_rate=-1", "config.stages[0].learning_rate is -1.0, it must be at least 0"),
        ("--config.optimizer.beta2=1.5", "config.optimizer.beta2 is 1.5, it must be at least 0 and below 1"),
        ("--config.optimizer.clip_norm=0", "config.optimizer.clip_norm is 0.0, it must be above 0 (None: no clipping)"),
    ],
)
def test_a_mistyped_override_is_one_line_with_the_way_out(file, override, message):
    assert message in refused(file, override)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "c = ConfigDict()",
            "c = ConfigDict(dict(optimiser={}))",
            "config.optimiser is not a key (did you mean 'optimizer'?)",
        ),
        ("dict(preset=", "dict(presett=", "config.model.presett is not a key (did you mean 'preset'?)"),
        ("batch_size=4", "batch_size='4'", "config.stages[0].batch_size is '4' (str), it must be a whole number"),
        ("batch_size=4, ", "", "config.stages[0] lacks batch_size"),
        ("mixture=dict(code=1", "mixture=dict(cod=1", "there is no source 'cod' (did you mean 'code'?)"),
        ("mixture=dict(code=1", "mixture=dict(code=-1", "a weight must be at least 0"),
        ("def get_config", "def config", "has no function get_config()"),
        ("    return c", "    return 5", "get_config() gave 5, it must give a dict"),
        ("    return c", "    return d", "run.py:{line}: return d: NameError: name 'd' is not defined"),
        ('size="2"', "size", "needs an argument, size: --config="),
        (
            "c = ConfigDict()",
            "c = ConfigDict(dict(evaluation=3))",
            "config.evaluations.bits_per_byte is 3, it must be a",
        ),
        (
            "c = ConfigDict()",
            "c = ConfigDict(dict(evaluation=dict(evry='1 steps')))",
            "config.evaluations.bits_per_byte.evry is not a key (did you mean 'every'?)",
        ),
        (
            "c = ConfigDict()",
            "c = ConfigDict(dict(sharding=dict(mesh=dict(context=2))))",
            "config.sharding.mesh.context is 2: context parallelism is not built yet",
        ),
        ('name="anneal"', 'name="stage0"', "two stages have the same name"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path, before, after, message):
    path = tmp_path / "run.py"
    assert before in FILE
    path.write_text(FILE.replace(before, after))
    line = FILE[: FILE.index(before)].count("\n") + 1
    assert message.format(line=line) in refused(str(path))


def test_a_missing_file_is_named():
    assert "there is no file nowhere.py" in refused("nowhere.py")
    near = str(Path(__file__).parents[2] / "configs" / "quikstart.py")
    assert f"there is no file {near} (did you mean '{near.replace('quik', 'quick')}'?)" in refused(near)


def test_a_file_that_changes_within_a_second_is_read_again_and_nothing_is_written_beside_it(file, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before, seen = os.stat(file), []
    for size in "234":
        Path(file).write_text(FILE.replace('size="2"', f'size="{size}"'))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        seen.append(load(RunConfig, file).stages[0].mixture["prose"])
    assert seen == [2, 3, 4]
    assert [p.name for p in Path(file).parent.iterdir()] == ["run.py"]


def test_a_stored_config_reads_back_the_same(file, tmp_path):
    import json

    from jaxpt.config.schema import plain

    config = load(RunConfig, file, ["--config.stages[1].learning_rate=1e-3"])
    stored = tmp_path / "config.json"
    stored.write_text(json.dumps(plain(config)))
    assert load(RunConfig, str(stored)) == config


def test_a_source_that_json_names_twice_is_refused(tmp_path):
    (tmp_path / "c.json").write_text('{"sources": {"web": {"path": "a"}, "web": {"path": "b"}}, "stages": []}')
    assert refused(str(tmp_path / "c.json")).endswith("c.json gives 'web' twice; name each key and each source once")
    (tmp_path / "c.json").write_text('{"sources": ')
    assert "is not JSON" in refused(str(tmp_path / "c.json"))


def sections(hint):
    """The dataclasses that a section, and what it holds, are made of; of a kind what all choices have."""
    if is_section(hint):
        return {hint}.union(*(sections(key.hint) for key in keys_of(hint).values()))
    return set().union(*(sections(h) for h in typing.get_args(hint)))


def test_a_run_has_few_keys():
    """Past about 150 it asks to be split, a section past about 30.

    Past 155: clipping, guard, averaging, recovery and metrics.watch, which watch over steps; batch_ramp; a branch's;
    one for each kind of kernel that a run chooses among.
    """
    assert sum(len(keys_of(cls)) for cls in sections(RunConfig)) <= 166
    assert max(len(keys_of(cls)) for cls in sections(RunConfig)) < 30


def test_optional_sections_that_the_file_leaves_out_can_be_set_key_by_key(file):
    config = load(
        RunConfig,
        file,
        [
            "--config.model.rope.kind=yarn",
            "--config.model.rope.factor=4",
            "--config.stages[1].rope.theta=1e6",
            "--config.stages[1].rope.max_positions=4096",
            "--config.stages[1].pose.target=512",
            "--config.model.moe.experts=8",
        ],
    )
    assert (config.model.rope.kind, config.model.rope.factor, config.model.rope.theta) == ("yarn", 4.0, None)
    assert (config.stages[1].rope.theta, config.stages[1].rope.max_positions) == (1e6, 4096)
    assert (config.stages[1].pose.target, config.stages[1].pose.chunks) == (512, 2)
    assert (config.stages[0].rope, config.stages[0].pose, config.model.rope_local) == (None, None, None)
    assert "did you mean 'theta'?" in refused(file, "--config.stages[1].rope.teta=1")
    assert "must be one of default, linear, llama3, yarn" in refused(file, "--config.model.rope.kind=yarm")
    assert "config.stages[1].pose.target" in refused(file, "--config.stages[1].pose.chunks=3")


def test_none_for_a_section_takes_back_what_the_file_says(file):
    assert load(RunConfig, file).model.preset == "tiny"
    assert load(RunConfig, file, ["--config.model=None"]).model.preset is None


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("stages[0].name", {"stages": [{"name": "../main"}]}),
        ("sources", {"sources": {"code": {"path": "x"}, "we/b": {"path": "y"}}}),
        ("evaluations", {"evaluations": {"..": {"documents": {"web": "held_out.jsonl"}}}}),
        (
            "evaluations.bits_per_byte.documents",
            {"evaluations": {"bits_per_byte": {"documents": {"..": "held_out.jsonl"}}}},
        ),
    ],
)
def test_names_are_one_path_component(key, change):
    stage = {"duration": "1 steps", "batch_size": 4, "sequence_length": 16, "mixture": {"code": 1}}
    values = {"sources": {"code": {"path": "x"}}, **change, "stages": [stage | change.get("stages", [{}])[0]]}
    with pytest.raises(JaxptError, match=rf"config\.{re.escape(key)}: the name"):
        build(RunConfig, values)
