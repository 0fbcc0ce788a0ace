"""A process that follows a run scores each checkpoint once, whatever is removed, damaged or trained anew meanwhile."""

import json
import shutil
import time

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import cli
from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.errors import JaxptError
from jaxpt.evaluation.downstream import Downstream
from jaxpt.evaluation.harness import measuring
from jaxpt.files.lock import Lock, inside
from jaxpt.training import followed, following
from jaxpt.training.following import Follower, waiting_entry
from jaxpt.training.metrics import read
from tests.evaluation import scored_runs


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return scored_runs.make(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def trained(setting, tmp_path_factory):
    """A finished run with checkpoints 2, 4, 6, 8, and an entry that is left to a follower."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    entry = {"process": "follower", "keep_best": "sums/acc", "backlog": 3}
    more = ("--config.checkpoint.keep=8", "--config.checkpoint.every=2 steps", "--config.sharding.mesh.fsdp=1")
    devices = ("--config.sharding.mesh.data=-1",)
    assert cli.main(["train", *scored_runs.flags(setting, workdir, *more, *devices, **entry)]) == 0
    return workdir


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def asked(setting):
    return Downstream(tasks=(str(setting / "sums.yaml"),), limit=2, keep_best="sums/acc")


@pytest.fixture
def scored(monkeypatch):
    """Steps that were scored, in order; the score of step N is 1 / N."""
    steps = []

    def measure(asked, model, output, name, mesh=None, said=None):
        steps.append(int(name))
        return {"sums/acc": 1 / int(name)}

    monkeypatch.setattr(measuring, "measure", measure)
    monkeypatch.setattr(following, "POLL", 0.01)
    return steps


def recorded(run, entry="e"):
    return [(r["step"], r[f"eval/{entry}/sums/acc"]) for r in read(run / "scores" / entry / "scores.jsonl")]


def test_each_checkpoint_is_scored_once_oldest_first_and_it_ends_with_the_run(run, asked, scored):
    lines = []
    assert Follower(run, "e", asked, report=lines.append).follow() == 0
    assert scored == [2, 4, 6, 8]
    assert recorded(run) == [(s, 1 / s) for s in scored]
    assert Follower(run, "e", asked, report=lines.append).follow() == 0
    assert scored == [2, 4, 6, 8]
    assert lines[0].endswith("4 checkpoints, 4 of them to be scored as e")
    assert lines[-1].endswith("4 checkpoints, 0 of them to be scored as e")
    assert not (run / "scores/e/.jaxpt-lock").exists()
    best = {one.stage: one.step for _, one in marks.best_of(run, finished_steps(run))}
    assert best == {"main": 2, "anneal": 6}


def test_what_is_asked_in_another_way_is_scored_again(run, asked, scored, setting):
    Follower(run, "e", asked, report=lambda line: None).follow()
    other = Downstream(tasks=asked.tasks, limit=3, batch_tokens=64, data=str(setting))
    Follower(run, "e", other, report=lambda line: None).follow()
    assert scored == [2, 4, 6, 8] * 2
    steps = [r["step"] for r in followed.records_of(run) if "eval/e/sums/acc" in r]
    assert steps == [2, 4, 6, 8]  # those of the way that was asked last
    faster = Downstream(tasks=asked.tasks, limit=3, batch_tokens=128, slots=2)
    Follower(run, "e", faster, report=lambda line: None).follow()
    assert len(scored) == 8  # nothing depends on how many are judged at once


def test_a_checkpoint_that_is_removed_meanwhile_is_passed_over(run, asked, scored, monkeypatch):
    real, lines = following.read_params, []

    def removed(workdir, step, *rest, **more):
        if step == 4:
            shutil.rmtree(workdir / "checkpoints/4")
        return real(workdir, step, *rest, **more)

    monkeypatch.setattr(following, "read_params", removed)
    assert Follower(run, "e", asked, report=lines.append).follow() == 0
    assert scored == [2, 6, 8]
    assert "checkpoint 4 was removed before it was scored" in lines


def test_a_damaged_checkpoint_is_said_and_the_others_are_scored(run, asked, scored):
    for file in (run / "checkpoints/4/params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"x" * file.stat().st_size)
    lines = []
    assert Follower(run, "e", asked, report=lines.append).follow() == 1
    assert scored == [2, 6, 8]
    assert [line for line in lines if line.startswith("not scored: ") and "checkpoints/4" in line]


def test_a_checkpoint_that_is_being_written_is_not_read(run, asked, scored):
    shutil.copytree(run / "checkpoints/8", run / "checkpoints/10.orbax-checkpoint-tmp-1")
    half = shutil.copytree(run / "checkpoints/8", run / "checkpoints/12")
    (half / "_CHECKPOINT_METADATA").unlink()
    assert Follower(run, "e", asked, report=lambda line: None).follow(once=True) == 0
    assert scored == [2, 4, 6, 8]


def test_what_the_run_went_back_behind_is_scored_anew(run, asked, scored):
    follow = lambda: Follower(run, "e", asked, report=lambda line: None).follow()  # noqa: E731
    follow()
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": "resume", "step": 4, "time": time.time()}) + "\n")
    assert [r["step"] for r in followed.read_entry(run, "e")] == [2, 4]
    shutil.rmtree(run / "checkpoints/6")  # set aside, and not trained again yet
    follow()
    assert scored[4:] == [8]
    assert [r["step"] for r in followed.records_of(run) if "eval/e/sums/acc" in r] == [2, 4, 8]


def test_a_line_that_a_kill_cut_off_goes(run, asked, scored):
    Follower(run, "e", asked, report=lambda line: None).follow()
    file = run / "scores/e/scores.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    Follower(run, "e", asked, report=lambda line: None).follow()
    assert scored == [2, 4, 6, 8, 8]
    assert recorded(run) == [(s, 1 / s) for s in (2, 4, 6, 8)]


def test_two_followers_of_one_entry_are_one_too_many(run, asked, scored):
    folder = marks.folder(run, "e")
    with Lock(inside(folder), folder).acquire():
        with pytest.raises(JaxptError, match=r"scores/e is being written by .*give another --entry"):
            Follower(run, "e", asked).follow()
        assert Follower(run, "other", asked, report=lambda line: None).follow() == 0
    assert scored == [2, 4, 6, 8]


def test_it_waits_for_a_run_that_is_not_finished(run, asked, scored, monkeypatch):
    shutil.move(run / "checkpoints/8", run / "later")
    shutil.move(run / "checkpoints/6", run / "later6")
    lines, waits = [], []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            shutil.move(run / "later6", run / "checkpoints/6")
        if len(waits) == 5:
            shutil.move(run / "later", run / "checkpoints/8")

    monkeypatch.setattr(following.time, "sleep", sleep)
    assert Follower(run, "e", asked, report=lines.append).follow() == 0
    assert scored == [2, 4, 6, 8]
    assert len(waits) == 5
    assert len([line for line in lines if line.startswith("no process trains the run")]) == 1


def test_once_ends_with_what_is_there(run, asked, scored):
    shutil.rmtree(run / "checkpoints/8")
    assert Follower(run, "e", asked, report=lambda line: None).follow(once=True) == 0
    assert scored == [2, 4, 6]
    (kept,) = [k for k in marks.read(run) if k.entry == "e"]
    assert kept.waits == 0  # nobody will come


def test_an_entry_of_the_config_says_what_is_asked(run, setting, scored, capsys):
    (kept,) = marks.read(run)  # written by the run, from its first step on
    assert (kept.entry, kept.metric, kept.waits, kept.scored) == ("sums", "sums/acc", 3, ())
    entry, asked = waiting_entry(run, None)
    assert (entry, asked.tasks, asked.keep_best) == ("sums", (str(setting / "sums.yaml"),), "sums/acc")
    assert cli.main(["eval", f"--follow={run}"]) == 0
    assert scored == [2, 4, 6, 8]
    assert marks.read(run)[0].scored
    with pytest.raises(JaxptError, match=r"--entry=smus: .* leaves no such one to a follower \(did you mean 'sums'"):
        waiting_entry(run, "smus")
    capsys.readouterr()
    for flags, words in (
        ([f"--follow={setting}"], "is not a run directory"),
        ([f"--follow={run}", "--model=x"], "--model does not go with --follow"),
        ([f"--follow={run}", "--tasks=nothing.yaml"], "there is no such task file"),
        ([f"--follow={run}", f"--tasks={setting}/sums.yaml", "--keep_best=sums/ac"], "did you mean 'sums/acc'"),
        ([f"--follow={run}", f"--tasks={setting}/sums.yaml", "--limit=0"], "limit"),
        ([f"--follow={run}", f"--tasks={setting}/sums.yaml", "--entry=a/b"], "--entry"),
    ):
        assert cli.main(["eval", *flags]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1


def test_parameters_may_lie_on_a_mesh(run, asked, monkeypatch):
    seen = []

    def measure(asked, model, output, name, mesh=None, said=None):
        seen.append((mesh.shape["fsdp"], len(model.params["final_norm"].sharding.device_set)))
        return {"sums/acc": 0.5}

    monkeypatch.setattr(measuring, "measure", measure)
    assert Follower(run, "e", asked, {"fsdp": 2, "data": 4}, lambda line: None).follow(once=True) == 0
    assert seen == [(2, 8)] * 4
