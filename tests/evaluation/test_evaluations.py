"""A config's `evaluations`: entries by name, one in a file of the user's own, the section of earlier versions."""

import json
import re
from dataclasses import dataclass

import jax.numpy as jnp
import pytest

from benchmarks.made_sources import make_sources
from jaxpt import cli
from jaxpt.config.choice import names
from jaxpt.config.file import load
from jaxpt.config.schema import build, plain
from jaxpt.errors import JaxptError
from jaxpt.evaluation.evaluation import MOVED, Evaluation
from jaxpt.training.config import RunConfig
from jaxpt.training.evaluating import evaluations
from jaxpt.training.metrics import read
from tests.training import run_made

CONFIG = """
def get_config(folder):
    stage = dict(batch_size=8, sequence_length=64, mixture=dict(a=0.5, b=0.3, c=0.2))
    model = dict(vocab_size=512, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True)
    return dict(
        model=model,
        sources={n: dict(path=folder + "/" + n) for n in "abc"},
        stages=[dict(stage, duration="6 steps")],
        metrics=dict(every=1, tensorboard=False),
        evaluations=EVALUATIONS,
    )
"""
MINE = '''
from dataclasses import dataclass

import numpy as np

from jaxpt.config.choice import option
from jaxpt.evaluation.evaluation import Evaluation


@dataclass(frozen=True)
class Norm(Evaluation):
    """The length of one parameter."""

    leaf: str = option("final_norm", "a name at the top of the parameter tree")

    def prepare(self, setting):
        assert setting.model.layers and setting.sequence_length == 64
        return lambda step, params: {self.leaf: float(np.linalg.norm(params[self.leaf])), "step": step}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_sources(tmp_path / "sources", rows=60)
    (tmp_path / "house_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def train(folder, evaluations, *flags):
    (folder / "config.py").write_text(CONFIG.replace("EVALUATIONS", repr(evaluations)))
    given = [f"--config={folder / 'config.py'}:{folder / 'sources'}", f"--workdir={folder / 'run'}"]
    return cli.main(["train", *given, *flags])


def values(folder, name):
    return {r["step"]: r[name] for r in read(folder / "run" / "metrics.jsonl") if name in r}


def test_an_evaluation_in_a_file_of_the_users_own_runs_from_a_config(folder):
    entry = {"name": "house_of_mine:Norm", "every": "2 steps", "before": False}
    assert train(folder, {"mine": entry}) == 0
    assert values(folder, "eval/mine/step") == {2: 2.0, 4: 4.0, 6: 6.0}
    assert all(norm > 0 for norm in values(folder, "eval/mine/final_norm").values())
    stored = json.loads((folder / "run" / "config.json").read_text())["evaluations"]["mine"]
    assert stored == {"name": "house_of_mine:Norm", "every": "2 steps", "before": False, "after": True} | {
        "stage_ends": False,
        "leaf": "final_norm",
    }


def test_its_options_can_be_set_on_the_command_line(folder, capsys):
    entry = {"name": "house_of_mine:Norm", "leaf": "embed"}
    assert train(folder, {"mine": entry}, "--config.evaluations.mine.leaf=final_norm") == 0
    assert list(values(folder, "eval/mine/final_norm")) == [0, 6]
    assert train(folder, {"mine": entry | {"leav": "embed"}}) == 1
    assert "config.evaluations.mine.leav is not a key (did you mean 'leaf'?)" in capsys.readouterr().err


def test_an_entry_can_be_added_on_the_command_line(folder):
    flags = ["name=house_of_mine:Norm", "every=3 steps"]
    assert train(folder, {}, *(f"--config.evaluations.mine.{flag}" for flag in flags)) == 0
    assert list(values(folder, "eval/mine/final_norm")) == [0, 3, 6]


def test_entries_are_measured_each_at_its_own_steps_and_printed(folder, capsys):
    entries = {
        "often": {"name": "house_of_mine:Norm", "every": "2 steps", "before": False, "after": False},
        "seldom": {"name": "house_of_mine:Norm", "every": "3 steps", "before": True, "after": False},
    }
    assert train(folder, entries) == 0
    assert list(values(folder, "eval/often/step")) == [2, 4, 6]
    assert list(values(folder, "eval/seldom/step")) == [0, 3, 6]
    printed = capsys.readouterr().out.splitlines()
    for name, steps in (("often", (2, 4, 6)), ("seldom", (0, 3, 6))):
        norms = values(folder, f"eval/{name}/final_norm")
        for step in steps:
            begun = printed.index(f"step {step}: evaluating {name} …")  # said before it is at work
            want = f"step {step}: eval/{name}/final_norm {norms[step]:.4g}, eval/{name}/step {step} ("
            assert re.fullmatch(re.escape(want) + r"\d+\.\d s\)", printed[begun + 1])
    assert sum("evaluating" in line for line in printed) == 6


def test_a_name_that_is_none_names_its_nearest(folder, capsys):
    assert "bits_per_byte" in names(Evaluation)
    assert train(folder, {"mine": {"name": "bits_per_bite"}}) == 1
    error = capsys.readouterr().err
    assert "config.evaluations.mine.name is 'bits_per_bite', which is not an evaluation" in error
    assert "did you mean 'bits_per_byte'?" in error
    assert train(folder, {"mine": {"name": "house_of_mine:Norn"}}) == 1
    assert "house_of_mine has no class Norn (did you mean 'Norm'?)" in capsys.readouterr().err


@dataclass(frozen=True)
class Killed(Evaluation):
    """An evaluation of the tests in which the process ends."""

    at: int = 10

    def prepare(self, setting):
        def measure(step, params):
            if step == self.at:
                raise KeyboardInterrupt
            return {"norm": float(jnp.linalg.norm(params["final_norm"]))}

        return measure


def test_of_two_entries_the_one_that_was_measured_is_not_measured_again(tmp_path):
    from jaxpt.training.evaluating import Evaluating

    def go(at):
        events = [Evaluating(name, Killed("10 steps", at=at if name == "two" else -1)) for name in ("one", "two")]
        kinds = {"stages": run_made.CONFIG["stages"][:1], "evaluate": None, "log": lambda line: None}
        return run_made.start(tmp_path / "run", events=events, **kinds)

    with pytest.raises(KeyboardInterrupt):
        go(10)
    assert go(-1) == 0
    records = read(tmp_path / "run" / "metrics.jsonl")
    for name in ("one", "two"):
        assert [r["step"] for r in records if f"eval/{name}/norm" in r] == [0, 10, 20]


def config(**more):
    return build(RunConfig, {**run_made.CONFIG, **more})


def test_the_section_of_earlier_versions_is_an_entry():
    old = {
        "every": "4 steps",
        "before": False,
        "after": True,
        "bits_per_byte": {"web": "held_out.jsonl"},
        "max_documents": 7,
        "batch_size": 4,
    }
    today = {"name": "bits_per_byte", "every": "4 steps", "before": False, "after": True}
    today |= {"documents": {"web": "held_out.jsonl"}, "max_documents": 7, "batch_size": 4, "stage_ends": False}
    assert plain(config(evaluation=old).evaluations) == {"bits_per_byte": today | {"largest_record": 8 << 20}}
    assert config(evaluation=old) == config(evaluations={"bits_per_byte": today})
    nothing = {"every": None, "before": True, "after": True, "bits_per_byte": {}, "max_documents": None}
    assert config(evaluation=nothing | {"batch_size": 8}) == config(evaluation={}) == config()
    assert MOVED.keys() == {"evaluation"}
    assert config(evaluation=None) == config()
    with pytest.raises(JaxptError, match=r"config\.evaluation is called config\.evaluations\.bits_per_byte today"):
        config(evaluation=old, evaluations={"bits_per_byte": today})


def test_flags_of_earlier_versions_reach_the_entry(tmp_path):
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {run_made.CONFIG!r}\n")
    flags = ["every=2 steps", "bits_per_byte.code=held_out.jsonl", "max_documents=3", "before=False"]
    read_config = load(RunConfig, str(tmp_path / "config.py"), [f"--config.evaluation.{flag}" for flag in flags])
    entry = plain(read_config.evaluations["bits_per_byte"])
    want = {"every": "2 steps", "documents": {"code": "held_out.jsonl"}, "max_documents": 3, "before": False}
    assert {key: entry[key] for key in want} == want


@pytest.mark.parametrize("flag", ["={'every': '2 steps', 'bits_per_byte': {'code': 'held_out.jsonl'}}", "=None"])
def test_a_flag_of_earlier_versions_puts_in_the_whole_section(tmp_path, flag):
    file = run_made.CONFIG | {"evaluation": {"before": False, "bits_per_byte": {"web": "w.jsonl"}}}
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {file!r}\n")
    read_config = load(RunConfig, str(tmp_path / "config.py"), [f"--config.evaluation{flag}"])
    if flag == "=None":
        assert not read_config.evaluations
        return
    entry = read_config.evaluations["bits_per_byte"]
    assert (entry.every, entry.documents) == ("2 steps", {"code": "held_out.jsonl"})


def test_documents_that_are_not_there_are_named_with_their_key():
    entries = {"bits_per_byte": {"documents": {"web": "nowhere.jsonl"}}}
    with pytest.raises(JaxptError, match=r"bits_per_byte\.documents\.web is 'nowhere\.jsonl': No such file"):
        evaluations(config(evaluations=entries), object())


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"bits_per_byte": {"every": "0 steps"}}, "config.evaluations.bits_per_byte.every is '0 steps'"),
        ({"bits_per_byte": {"every": "often"}}, "config.evaluations.bits_per_byte.every is 'often'"),
        ({"bits_per_byte": {"batch_size": 0}}, "config.evaluations.bits_per_byte.batch_size is 0"),
        ({"bits_per_byte": {"docs": {}}}, "config.evaluations.bits_per_byte.docs is not a key"),
        ({"bits_per_byte": {}, "bpb": {}}, "both log eval/bpb/"),
    ],
)
def test_a_mistake_in_an_entry_names_its_key(entries, words):
    with pytest.raises(JaxptError) as error:
        config(evaluations=entries)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
