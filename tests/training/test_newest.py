"""Readers of a run never fail because its writer saves, prunes, or starts again meanwhile."""

import shutil
import time

import jax
import pytest

from jaxpt import api
from jaxpt.checkpoints import checkpoints, newest
from jaxpt.checkpoints.newest import Pruned, read_checkpoint
from jaxpt.commands import inspect as inspect_command
from jaxpt.commands import train as train_command
from jaxpt.errors import JaxptError
from jaxpt.models.specs import param_specs
from jaxpt.optim.chain import make_optimizer
from jaxpt.reporting import write_report
from jaxpt.training import starting_point
from jaxpt.training.state import make_layout
from tests.training.processes import start, wait_for
from tests.training.saved import TOKENS, config, opened, prepared, save, step_of

READS = 40


@pytest.fixture
def run(tmp_path):
    workdir = tmp_path / "run"
    prepared(workdir)
    saved = opened(workdir)
    for step in (3, 6):
        save(saved, step)
    return workdir


@pytest.fixture
def writer(tmp_path):
    """A process that saves and prunes as fast as it can."""
    workdir = tmp_path / "busy"
    process = start("saved", workdir)
    wait_for(workdir, lambda path: len(newest.finished_steps(path)) > 0, process)
    yield workdir
    (workdir / "stop").write_text("")
    assert process.wait(60) == 0, process.stdout.read()


def pruning(monkeypatch, module, name, workdir, times):
    """Makes a reader prune the checkpoint that it is about to read, and save the next, for so many times."""
    read, left = getattr(module, name), [times]

    def between(run, step, *rest):
        if left[0]:
            left[0] -= 1
            saved = opened(workdir)
            save(saved, step + 1)
            saved.close()
            shutil.rmtree(workdir / "checkpoints" / str(step))
        return read(run, step, *rest)

    monkeypatch.setattr(module, name, between)
    return left


def test_a_reader_beside_a_busy_writer_always_gets_one_whole_step(writer, monkeypatch, capsys):
    vanished = []
    monkeypatch.setattr(newest, "_is_pruned", counted(newest._is_pruned, vanished))
    seen, reads = set(), 0
    while reads < READS or (not vanished and reads < 20 * READS):
        (step,) = step_of(api.load(writer))
        seen.add(step)
        reads += 1
        if reads % 4 == 0:
            assert inspect_command.main([str(writer)]) == 0
            write_report(writer)
            starting_point.open_start(str(writer), "params")
    assert vanished  # under a reader's eyes
    assert len(seen) > 1
    print(f"{reads} reads, {len(vanished)} checkpoints vanished under them")


def counted(ask, into):
    def answer(*args):
        gone = ask(*args)
        if gone:
            into.append(args[1])
        return gone

    return answer


def test_without_another_try_the_same_reader_fails(writer, monkeypatch):  # the proof above can fail
    monkeypatch.setattr(newest, "TRIES", 1)
    read = api.read_params
    monkeypatch.setattr(api, "read_params", lambda *args: (time.sleep(0.5), read(*args))[1])
    with pytest.raises(Pruned, match="was pruned while it was read"):
        [api.load(writer) for _ in range(60)]


def test_a_step_that_vanishes_between_its_parts_is_replaced_whole(run, monkeypatch):
    left = pruning(monkeypatch, api, "read_params", run, 3)
    model = api.load(run)
    assert left == [0]
    assert step_of(model) == {9}
    assert model.lineage[-1]["tokens"] == 9 * TOKENS


def test_it_is_tried_so_often_and_no_more(run, monkeypatch):
    monkeypatch.setattr(newest, "TRIES", 3)
    pruning(monkeypatch, api, "read_params", run, 3)
    with pytest.raises(JaxptError, match=r"^checkpoint 8 of .*run was pruned while it was read; try again, or name"):
        api.load(run)


def test_a_step_that_was_named_and_vanishes_is_one_line(run, monkeypatch):
    pruning(monkeypatch, api, "read_params", run, 1)
    with pytest.raises(JaxptError, match=r"^checkpoint 3 of .*run was pruned while it was read; take another, it has"):
        api.load(run / "checkpoints" / "3")
    with pytest.raises(JaxptError, match=r"run has no finished checkpoint 5; it has 4, 6"):
        api.load(run / "checkpoints" / "5")


def test_the_newest_that_is_damaged_is_told_at_once_and_not_called_pruned(run, monkeypatch):
    monkeypatch.setattr(newest, "GONE_WITHIN", 1000.0)
    chunk = max((p for p in (run / "checkpoints/6/params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(JaxptError) as raised:
        api.load(run)
    assert not isinstance(raised.value, Pruned)
    assert "6" in str(raised.value)
    assert "another checkpoint" in str(raised.value)


def test_one_that_has_lost_a_file_is_one_line(run):
    shutil.rmtree(run / "checkpoints" / "6" / "params")
    with pytest.raises(JaxptError, match="another checkpoint"):
        api.load(run)
    (run / "checkpoints" / "6" / "run" / "metadata").unlink()
    with pytest.raises(JaxptError, match=r"6 .*another checkpoint"):
        read_checkpoint(run, None, lambda step: checkpoints.read_run(run, step))


def test_a_start_that_is_pruned_before_it_is_read_begins_again(run, monkeypatch):
    first = starting_point.open_start(str(run), "params")
    assert first.lineage[-1]["steps"] == 6
    shutil.rmtree(run / "checkpoints" / "6")
    attempts = []

    def once(*args):
        point = first if not attempts else starting_point.open_start(str(run), "params")
        attempts.append(point.lineage[-1]["steps"])
        optimizer = make_optimizer(config().optimizer, param_specs(point.model))
        point.state(make_layout(point.model, config().sharding, jax.devices()[:1]), optimizer)
        return 0

    monkeypatch.setattr(train_command, "_train", once)
    assert train_command.train(None, run) == 0
    assert attempts == [6, 3]


def test_init_from_a_name_that_is_no_step_is_one_line(run):
    with pytest.raises(JaxptError, match=r"config\.init_from: .*latest does not exist"):
        starting_point.open_start(f"{run}/checkpoints/latest", "params")
