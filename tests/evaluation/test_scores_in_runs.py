"""Scores on tasks at a run's checkpoints: in the run, by a follower, by hand the same; the run is as without them."""

import gc
import json
import random

import jax
import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import cli
from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.evaluation import downstream
from jaxpt.evaluation.downstream import Downstream
from jaxpt.evaluation.harness.evaluating import find_tasks
from jaxpt.evaluation.harness.scores import known_scores
from jaxpt.training import followed
from jaxpt.training.metrics import read
from tests.evaluation import scored_runs, sums

ALL_KEPT = ("--config.checkpoint.keep=8", "--config.checkpoint.every=2 steps")
METRICS = ("acc", "acc_norm", "bits_per_byte")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return scored_runs.make(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def bare(setting, tmp_path_factory):
    """The run without any scores."""
    workdir = tmp_path_factory.mktemp("bare") / "run"
    assert cli.main(["train", *scored_runs.flags(setting, workdir, *ALL_KEPT)]) == 0
    return workdir


@pytest.fixture(scope="module")
def own(setting, tmp_path_factory):
    """The run that scores itself at its stages' ends, and what was seen of memory and random numbers around it."""
    workdir = tmp_path_factory.mktemp("own") / "run"
    random.seed(5)
    np.random.seed(5)
    want = random.Random(5).random(), np.random.RandomState(5).rand()
    entry = {"stage_ends": True, "keep_best": "sums/acc_norm"}
    assert cli.main(["train", *scored_runs.flags(setting, workdir, *ALL_KEPT, **entry)]) == 0
    assert (random.random(), np.random.rand()) == want
    return workdir


def scores(records, entry):
    begin = f"eval/{entry}/"
    return {
        r["step"]: {k.removeprefix(begin): v for k, v in r.items() if k.startswith(begin)}
        for r in records
        if any(k.startswith(begin) for k in r)
    }


def trained(workdir):
    losses = [(r["step"], r["train/loss"]) for r in read(workdir / "metrics.jsonl") if "train/loss" in r]
    return losses, {step: read_run(workdir, step)["digests"] for step in finished_steps(workdir)}


def test_the_run_is_bit_for_bit_as_without_them(bare, own):
    assert trained(own) == trained(bare)
    assert finished_steps(own) == [2, 4, 6, 8]


def test_scores_are_in_the_metrics_of_the_run(own):
    found = scores(read(own / "metrics.jsonl"), "sums")
    assert list(found) == [4, 8]
    names = [f"sums/{m}{end}" for m in METRICS for end in ("", "_stderr")]
    assert sorted(found[8]) == sorted(names)
    results = json.loads(next((own / "scores/sums/8").glob("results_*.json")).read_text())["results"]["sums"]
    assert {f"sums/{m}": results[f"{m},none"] for m in METRICS}.items() <= found[8].items()
    assert list((own / "scores/sums/8").glob("samples_sums_*.jsonl"))
    assert not list((own / "scores/sums/answers").iterdir())  # kept for as long as it may be killed
    assert any(b"eval/sums/sums/acc_norm" in file.read_bytes() for file in (own / "tensorboard").iterdir())


def test_a_follower_gets_the_same_scores_and_each_once(setting, bare, own, capsys):
    args = ["eval", *scored_runs.followed(setting, bare, "--once", "--keep_best=sums/bits_per_byte")]
    assert cli.main(args) == 0
    file = bare / "scores/tasks/scores.jsonl"
    found = scores(read(file), "tasks")
    assert list(found) == [2, 4, 6, 8]
    mine = scores(read(own / "metrics.jsonl"), "sums")
    for step, values in mine.items():  # of one device, and of a mesh of eight
        assert found[step] == pytest.approx(values, rel=1e-5)
    assert "4 of them to be scored" in capsys.readouterr().out
    before = file.read_bytes()
    assert cli.main(args) == 0
    assert "4 checkpoints, 0 of them to be scored" in capsys.readouterr().out
    assert file.read_bytes() == before
    assert trained(bare)[1].keys() == found.keys()  # it removed none
    assert any(b"eval/tasks/sums/acc_norm" in file.read_bytes() for file in (bare / "tensorboard/tasks").iterdir())
    by_step = {s: v["sums/bits_per_byte"] for s, v in found.items()}
    best = min((6, 8), key=by_step.get)
    assert cli.main(["inspect", f"{bare}@best"]) == 0
    assert f"best of stage anneal by sums/bits_per_byte of tasks: {best} (" in capsys.readouterr().out


def test_jaxpt_eval_gets_the_same_scores(setting, bare, tmp_path, capsys):
    flags = [f"--model={bare}@8", f"--tasks={setting / 'sums.yaml'}", f"--output={tmp_path / 'out'}"]
    assert cli.main(["eval", *flags]) == 0
    results = json.loads(next((tmp_path / "out").glob("results_*.json")).read_text())["results"]["sums"]
    mine = scores(read(bare / "scores/tasks/scores.jsonl"), "tasks")[8]
    assert {f"sums/{m}": results[f"{m},none"] for m in METRICS}.items() <= mine.items()


def test_nothing_stays_in_memory(own, setting):
    from jaxpt import api
    from jaxpt.evaluation.harness.measuring import measure

    model = api.load(f"{own}@8")
    asked = Downstream(tasks=(str(setting / "sums.yaml"),), limit=2)

    def held():
        return sum(a.nbytes for a in jax.live_arrays())

    measure(asked, model, own / "scores/again", "8")  # constants of the programs stay, once
    before = held()
    measure(asked, model, own / "scores/again", "8")
    assert held() == before
    engines = [type(o).__name__ for o in gc.get_objects() if type(o).__name__ in ("InferenceEngine", "JaxptModel")]
    assert not engines


def test_scores_are_known_before_anything_is_asked(setting, own, tmp_path):
    known = known_scores(find_tasks([str(setting / "sums.yaml")], None))
    assert known == {"sums/acc": True, "sums/acc_norm": True, "sums/bits_per_byte": False}
    for subject in ("a", "b"):
        (tmp_path / f"{subject}.jsonl").write_text((setting / "sums.jsonl").read_text())
    rows = [json.loads(line) | {"kind": k} for line in (setting / "sums.jsonl").open() for k in "ab"]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "sums.yaml").write_text(sums.TASK + "by: kind\n")
    assert known_scores(find_tasks([str(tmp_path / "sums.yaml")], None)) == known  # of the group alone


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"tasks": ("nowhere.yaml",)}, "config.evaluations.sums.tasks=nowhere.yaml: there is no such task file"),
        (
            {"keep_best": "sums/acc_nrom"},
            "config.evaluations.sums.keep_best is 'sums/acc_nrom', which the tasks do not give (did you mean",
        ),
        (
            {"num_fewshot": 3},
            "examples to show 3 of: add their file to config.evaluations.sums.data, or give config.evalua",
        ),
        ({"tasks": ("piqa",), "data": "nowhere"}, "config.evaluations.sums.data=nowhere is not a folder"),
        ({"tasks": ("PROGRAMS",)}, "task programs runs what the model writes, which is not done here"),
        ({"limit": 0}, "config.evaluations.sums.limit=0 must be at least 1"),
        ({"process": "follower", "every": "2 steps"}, "every has no effect with process='follower'"),
        ({"process": "folower"}, "config.evaluations.sums.process"),
        ({"before": True, "slots": 0}, "config.evaluations.sums.slots=0 must be"),
    ],
)
def test_a_mistake_is_found_before_the_run_begins(setting, tmp_path, capsys, entry, words):
    if entry.get("tasks") == ("PROGRAMS",):
        entry = {"tasks": (str(sums.write_program_task(tmp_path)),)}
    assert cli.main(["train", *scored_runs.flags(setting, tmp_path / "run", **entry)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_without_lm_eval_the_start_says_what_to_install(setting, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(downstream, "find_spec", lambda name: None)
    assert cli.main(["train", *scored_runs.flags(setting, tmp_path / "run", every="1 steps")]) == 1
    error = capsys.readouterr().err.strip()
    assert error == "jaxpt train: config.evaluations.sums needs the library lm_eval: pip install 'jaxpt[eval]'"
    assert not (tmp_path / "run").exists()


def test_what_fails_on_the_way_is_one_line_and_the_run_goes_on(setting, bare, tmp_path, capsys, monkeypatch):
    from jaxpt.evaluation.harness import measuring

    def measure(asked, model, output, name, mesh, said):
        if name == "4":
            raise MemoryError("of a device")
        return {"sums/acc": 0.5}

    monkeypatch.setattr(measuring, "measure", measure)
    entry = {"every": "4 steps", "before": True, "keep_best": "sums/acc"}
    assert cli.main(["train", *scored_runs.flags(setting, tmp_path / "run", *ALL_KEPT, **entry)]) == 0
    assert "step 4: sums failed (MemoryError: of a device); the run goes on" in capsys.readouterr().out
    assert list(scores(read(tmp_path / "run/metrics.jsonl"), "sums")) == [0, 8]
    assert trained(tmp_path / "run") == trained(bare)
    (kept,) = marks.read(tmp_path / "run")
    assert [one.step for one in kept.scored] == [8]  # of step 0 there is no checkpoint


def test_records_of_a_follower_stand_among_those_of_the_run(bare):
    merged = [r["step"] for r in followed.records_of(bare)]
    assert merged == sorted(merged)
    assert len(merged) == len(read(bare / "metrics.jsonl")) + 4
