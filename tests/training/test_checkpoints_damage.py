"""Only proven damage sets a checkpoint aside; every other error stops in a line and changes nothing."""

import errno
import json
import os
import tempfile
from pathlib import Path

import jax
import orbax.checkpoint as ocp
import pytest

from jaxpt.checkpoints.checkpoints import Checkpoints, Retention, finished_steps, read_run
from jaxpt.errors import JaxptError
from jaxpt.training.state import abstract_state
from tests.training import checkpoint_folders, run_made
from tests.training.checkpoint_folders import FIRST_STAGE, contents, copy, restore, without_rights
from tests.training.processes import free_address, start

PROC_MEM = Path("/proc/self/mem")  # opens, and fails to be read with EIO


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return checkpoint_folders.make(tmp_path_factory.mktemp("trained") / "run")


def data_files(checkpoint):
    """The files that hold the arrays' bytes; which of them are in use differs from save to save."""
    return sorted((checkpoint / "params" / "ocdbt.process_0" / "d").iterdir())


def change_run(checkpoint, old, new):
    """Flips a character in the text of the `run` item."""
    file = checkpoint / "run" / "metadata"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


ERRORS = {
    "no rights": PermissionError(errno.EACCES, "Permission denied", "/some/file"),
    "input/output": OSError(errno.EIO, "Input/output error"),
    "stale handle": OSError(errno.ESTALE, "Stale file handle"),
    "interrupted": InterruptedError(errno.EINTR, "Interrupted system call"),
    "no memory": MemoryError("cannot allocate"),
    "memory of the device": jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"),
    "TensorStore: no rights": ValueError("PERMISSION_DENIED: Error reading: Failed to open [os_error_code='13']"),
    "TensorStore: stale handle": ValueError("UNKNOWN: Error reading: Stale file handle [os_error_code='116']"),
    "TensorStore: no device": ValueError("NOT_FOUND: Error reading: No such device [os_error_code='19']"),
    "TensorStore: no memory": ValueError("RESOURCE_EXHAUSTED: Too many open files [os_error_code='24']"),
    "TensorStore: no memory to decode": ValueError("INVALID_ARGUMENT: Error decoding: zstd: not enough memory"),
    "nobody thought of it": KeyError("key_type"),
    "nobody thought of this either": RuntimeError("something is missing\nin two lines"),
    "timeout": TimeoutError("barrier"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_that_proves_nothing_stops_and_changes_nothing(trained, tmp_path, monkeypatch, name):
    workdir = copy(trained, tmp_path / "run")
    before = contents(workdir)

    def fail(*args, **kinds):
        raise ERRORS[name]

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fail)
    with pytest.raises(JaxptError) as error:
        run_made.start(workdir, log=lambda line: None)
    line = str(error.value)
    assert line.startswith(str(workdir / "checkpoints" / "20") + " could not be read")
    assert line.endswith("start again, or go on from an earlier checkpoint with --from_step=15")
    assert "\n" not in line
    after = contents(workdir)
    assert {k: v for k, v in after[0].items() if "json" not in k} == {
        k: v for k, v in before[0].items() if "json" not in k
    }
    assert after[1] == before[1]
    monkeypatch.undo()
    assert restore(workdir) == (20, [])  # the moment is over: nothing was lost


@pytest.mark.parametrize(
    "closed", ["run/metadata", "params/_METADATA", "params/d", "opt_state/manifest.ocdbt", "params/ocdbt.process_0/d"]
)
def test_files_that_may_not_be_read_stop_and_nothing_is_renamed(trained, closed):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        workdir = copy(trained, Path(folder) / "run")
        checkpoint = workdir / "checkpoints" / "20"
        target = checkpoint / closed
        refused = pytest.raises(JaxptError, match=r"checkpoints/20 could not be read \(.*[Pp]ermission")
        with without_rights(Path(folder), target), refused as error:
            restore(workdir)
        assert f"checkpoints/20/{closed}" in str(error.value)
        assert finished_steps(workdir) == [15, 20]
        assert restore(workdir) == (20, [])


@pytest.mark.skipif(not PROC_MEM.exists(), reason="needs a file that fails with EIO")
@pytest.mark.parametrize("file", ["run/metadata", "params/_METADATA", "params/manifest.ocdbt", "data"])
def test_files_that_fail_with_eio_stop_even_where_the_reader_calls_it_damage(trained, tmp_path, file):
    workdir = copy(trained, tmp_path / "run")
    checkpoint = workdir / "checkpoints" / "20"
    for target in data_files(checkpoint) if file == "data" else [checkpoint / file]:
        target.unlink()
        target.symlink_to(PROC_MEM)
    with pytest.raises(JaxptError, match=r"could not be read \(.*Input/output error"):
        restore(workdir)
    assert finished_steps(workdir) == [15, 20]


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[::50] = bytes(b ^ 4 for b in data[::50])
    path.write_bytes(bytes(data))


def flip_all(workdir, step):
    for path in data_files(workdir / "checkpoints" / str(step)):
        flip(path)


HARMS = {
    "cut": halve,
    "emptied": lambda p: p.write_bytes(b""),
    "zeroed": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "removed": lambda p: p.unlink(),
    "flipped": flip,
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", ["data", "index", "params/manifest.ocdbt", "run/metadata"])
def test_bytes_that_are_not_those_that_were_written_set_aside(trained, tmp_path, file, harm):
    workdir = copy(trained, tmp_path / "run")
    checkpoint = workdir / "checkpoints" / "20"
    places = {"data": data_files(checkpoint), "index": (checkpoint / "params" / "d").iterdir()}
    for path in places.get(file, [checkpoint / file]):
        HARMS[harm](path)
    step, lines = restore(workdir)
    assert step == 15
    assert ["checkpoint 20 is damaged (" in line for line in lines] == [True]
    assert all("\n" not in line and "set aside as 20.damaged, trying the one before" in line for line in lines)
    assert finished_steps(workdir) == [15]
    assert (workdir / "checkpoints" / "20.damaged").is_dir()


@pytest.mark.parametrize("harm", ["cut", "emptied", "zeroed"])
def test_metadata_that_is_no_json_is_damage(trained, tmp_path, harm):
    workdir = copy(trained, tmp_path / "run")
    HARMS[harm](workdir / "checkpoints" / "20" / "opt_state" / "_METADATA")
    assert restore(workdir)[0] == 15


RUN_ITEMS = {
    "list": "[1, 2]",
    "null": "null",
    "number": "3",
    "no keys": "{}",
    "not UTF-8": b"\xff\xfe{}",
    "nested": "[" * 100_000,
    "digits": '{"step": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("name", RUN_ITEMS)
def test_a_run_item_that_is_none_is_damage_for_all_readers(trained, tmp_path, name):
    workdir, text = copy(trained, tmp_path / "run"), RUN_ITEMS[name]
    file = workdir / "checkpoints" / "20" / "run" / "metadata"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(JaxptError, match=r"checkpoints/20 is damaged: its run item .*; use another checkpoint"):
        read_run(workdir, 20)
    assert restore(workdir)[0] == 15


FLIPS = {
    "a step of the schedule log": ('"anchors": [', '"anchors": [1'),
    "tokens": ('"tokens": 2560', '"tokens": 2568'),
    "the model": ('"theta": 10000', '"theta": 10008'),
    "a digest": ('"embed/table": ["', '"embed/table": ["0'),
    "the name of its digest": ('"digest": ', '"dagest": '),
    "the name of the flag": ('"finite": true', '"finate": true'),
    "the format": ('"format": 2', '"format": 3'),
}


@pytest.mark.parametrize("name", FLIPS)
def test_a_flip_anywhere_in_the_run_item_is_damage(trained, tmp_path, name):
    workdir = copy(trained, tmp_path / "run")
    change_run(workdir / "checkpoints" / "20", *FLIPS[name])
    with pytest.raises(JaxptError, match="checkpoints/20 is damaged: its run item"):
        read_run(workdir, 20)
    step, lines = restore(workdir)
    assert step == 15
    assert len(lines) == 1


def test_every_single_flip_of_the_run_item_is_noticed_by_its_digest(trained, tmp_path):
    from jaxpt.checkpoints import run_item

    text = (trained / "checkpoints" / "20" / "run" / "metadata").read_bytes()
    want = run_item.parse(text, 20)
    for i in range(0, len(text), 3):
        changed = bytearray(text)
        changed[i] ^= 1 << (i % 7)
        try:
            assert run_item.parse(bytes(changed), 20) == want  # another form of the same values
        except run_item.DamagedError:
            continue


def test_a_checkpoint_without_a_digest_of_its_run_item_is_read_and_said_once(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    file = workdir / "checkpoints" / "20" / "run" / "metadata"
    run = json.loads(file.read_text())
    old = {k: v for k, v in run.items() if k not in ("digest", "format", "finite")}
    file.write_text(json.dumps(old))
    assert read_run(workdir, 20) == old
    step, lines = restore(workdir)
    assert (step, len(lines)) == (20, 1)
    assert "checkpoint 20 was written by an earlier version, without a digest of its run item" in lines[0]
    del old["model"]
    file.write_text(json.dumps(old))
    assert restore(workdir)[0] == 15


def test_what_was_set_aside_before_is_never_removed(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    kept = workdir / "checkpoints" / "20.damaged"
    kept.mkdir()
    (kept / "mine").write_text("the only copy")
    flip_all(workdir, 20)
    step, lines = restore(workdir)
    assert step == 15
    assert "set aside as 20.damaged-2" in lines[0]
    assert (kept / "mine").read_text() == "the only copy"
    assert (workdir / "checkpoints" / "20.damaged-2" / "run" / "metadata").exists()


def test_where_all_are_set_aside_no_start_begins_again_until_they_are_moved(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    for step in (15, 20):
        flip_all(workdir, step)
    before = (workdir / "metrics.jsonl").read_bytes()
    for _ in range(3):
        with pytest.raises(JaxptError, match=r"no whole checkpoint is left beside 15.damaged, 20.damaged.*move them"):
            run_made.start(workdir, log=lambda line: None)
        assert (workdir / "metrics.jsonl").read_bytes() == before
    for step in (15, 20):
        os.rename(workdir / "checkpoints" / f"{step}.damaged", tmp_path / str(step))
    lines = []
    assert run_made.start(workdir, stages=FIRST_STAGE, log=lines.append) == 0
    assert not any("resumed" in line for line in lines)
    first, rest = before.split(b"\n", 1)
    assert json.loads(first)["step"] == 0
    assert (workdir / "metrics.cut.jsonl").read_bytes() == rest  # even then no line is lost


def test_damage_that_is_gone_at_the_second_attempt_is_none(trained, tmp_path, monkeypatch):
    workdir, real, calls = copy(trained, tmp_path / "run"), ocp.PyTreeCheckpointHandler.restore, []

    def once(self, *args, **kinds):
        calls.append(args)
        if len(calls) == 1:
            raise ValueError("DATA_LOSS: Error decoding b-tree node: CRC-32C checksum verification failed")
        return real(self, *args, **kinds)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", once)
    step, lines = restore(workdir)
    assert step == 20
    assert "checkpoint 20 could be read at the second attempt; the first: ValueError: DATA_LOSS" in lines[0]
    assert finished_steps(workdir) == [15, 20]


def test_another_optimizer_is_not_taken_for_damage(trained, tmp_path, monkeypatch):
    workdir = copy(trained, tmp_path / "run")
    file = workdir / "checkpoints" / "20" / "run" / "metadata"
    run = json.loads(file.read_text())
    from jaxpt.checkpoints import run_item

    run["digests"]["momentum/embed/table"] = run["digests"].pop("mu/embed/table")
    file.write_text(json.dumps(run_item.seal(run)))
    with pytest.raises(JaxptError, match=r"differ in momentum/embed/table, mu/embed/table: take the optimizer back"):
        restore(workdir)
    assert finished_steps(workdir) == [15, 20]


def test_a_folder_of_checkpoints_that_may_not_be_listed_stops(trained):
    with tempfile.TemporaryDirectory() as folder:
        workdir = copy(trained, Path(folder) / "run")
        refused = pytest.raises(JaxptError, match=r"checkpoints.*Permission denied")
        with without_rights(Path(folder), workdir / "checkpoints"), refused:
            restore(workdir)
        assert restore(workdir) == (20, [])


def test_a_damaged_checkpoint_prints_no_traceback(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    for path in data_files(workdir / "checkpoints" / "20"):
        path.write_bytes(b"")
    process = start("run_unreadable", workdir, {"stages": FIRST_STAGE})
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    assert "checkpoint 20 is damaged" in text
    assert "Traceback" not in text
    assert "ignored" not in text


def both(workdir, **settings):
    """Two processes on this machine; returns their exit codes and what they printed."""
    kinds = {"coordinator": free_address(), "devices": 4, "stages": FIRST_STAGE, **settings}
    processes = [start("run_unreadable", workdir, {**kinds, "process": i}, devices=2) for i in range(2)]
    lines = [p.communicate(timeout=300)[0] for p in processes]
    return [p.returncode for p in processes], lines


@pytest.mark.slow
def test_an_error_on_one_host_stops_all_and_damage_is_damage_for_all(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    codes, lines = both(workdir, fails_on=1)
    assert codes == [1, 1], lines
    for text in lines:
        assert "checkpoints/20 could not be read (process 1: OSError: [Errno 5] Input/output error)" in text
        assert "Traceback" not in text
    assert finished_steps(workdir) == [15, 20]
    flip_all(workdir, 20)
    codes, lines = both(workdir)
    assert codes == [0, 0], lines
    assert "resumed at step 15 of 20" in lines[0]
    assert (workdir / "checkpoints" / "20.damaged").is_dir()


def test_an_array_that_the_config_wants_in_another_shape_is_named_and_nothing_is_set_aside(trained, tmp_path):
    workdir = copy(trained, tmp_path / "run")
    plan, layout, optimizer = checkpoint_folders.program()
    abstract = abstract_state(plan.model, optimizer, layout).to_items()
    norm = abstract["opt_state"]["mu"]["final_norm"]
    abstract["opt_state"]["mu"]["final_norm"] = jax.ShapeDtypeStruct((4, 4), norm.dtype, sharding=norm.sharding)
    with pytest.raises(JaxptError) as error:
        Checkpoints(workdir, Retention(9), asynchronous=False).restore(abstract, pytest.fail)
    line = str(error.value)
    assert "differ in opt_state/mu/final_norm (saved as [16], wanted as [4, 4])" in line
    assert "take the optimizer back that it was trained with" in line
    assert finished_steps(workdir) == finished_steps(trained)
