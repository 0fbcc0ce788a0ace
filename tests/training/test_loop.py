"""A run killed anywhere goes on bit for bit; what is damaged is never taken for whole."""

import signal
from pathlib import Path

import numpy as np
import pytest

from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.checkpoints.marks import KeptByScore
from jaxpt.errors import JaxptError
from jaxpt.training.interrupt import EXIT_PREEMPTED
from jaxpt.training.metrics import read
from tests.training import run_made
from tests.training.processes import PATIENCE, finish, free_address, start, steps_logged, wait_for


def lines(workdir):
    """The records without what depends on the clock."""
    records = read(Path(workdir) / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith("perf/")} for r in records]


def digests(workdir, step=30):
    return read_run(Path(workdir), step)["digests"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert run_made.start(workdir) == 0
    return workdir


def test_a_finished_run_has_its_files_records_and_checkpoints(uninterrupted):
    records = lines(uninterrupted)
    assert [r["step"] for r in records if "train/loss" in r] == list(range(1, 31))
    assert [r["step"] for r in records if "eval/norm/final" in r] == [0, 10, 20, 30]
    want = {
        "train/loss",
        "train/loss/a",
        "train/grad_norm",
        "data/share/a",
        "data/wanted/a",
        "optim/learning_rate",
        "tokens",
    }
    assert want <= set(records[-2])
    assert {"perf/tokens_per_s", "perf/mfu"} <= set(read(uninterrupted / "metrics.jsonl")[-2])
    assert finished_steps(uninterrupted) == [20, 25, 30]  # the two newest and the first stage's last
    assert {"config.json", "model.json", "lineage.json"} <= {p.name for p in uninterrupted.iterdir()}
    assert records[-2]["train/loss"] < records[1]["train/loss"] - 0.5


def test_only_laps_with_a_compilation_are_labelled_warm_up(uninterrupted):
    laps = [r for r in read(uninterrupted / "metrics.jsonl") if "perf/mfu" in r]
    assert [r["step"] for r in laps if r.get("perf/warmup")] == [1]


def test_two_kills_leave_the_losses_and_parameters_of_an_uninterrupted_run(uninterrupted, tmp_path):
    for target, saved in ((8, 5), (23, 20)):
        started = start("run_made", tmp_path / "run", {"hold_at": target})
        come = lambda w, n=target, s=saved: steps_logged(w) >= n and finished_steps(w)[-1:] == [s]  # noqa: E731
        wait_for(tmp_path / "run", come, started)
        started.kill()
        started.wait()
    printed = finish([start("run_made", tmp_path / "run", {})])[0]
    assert "resumed at step 20 of 30" in printed
    assert "replayed step 21" in printed
    assert "as before" in printed
    assert lines(tmp_path / "run") == lines(uninterrupted)
    assert digests(tmp_path / "run") == digests(uninterrupted)


def test_another_seed_is_another_run(uninterrupted, tmp_path):  # the proof above can fail
    assert run_made.start(tmp_path / "run", seed=1) == 0
    assert lines(tmp_path / "run") != lines(uninterrupted)
    assert digests(tmp_path / "run") != digests(uninterrupted)


def test_sigterm_saves_and_exits_with_its_own_code_though_the_next_batch_never_comes(uninterrupted, tmp_path):
    started = start("run_made", tmp_path / "run", {"hold_at": 7})
    wait_for(tmp_path / "run", lambda w: steps_logged(w) >= 7, started)
    started.send_signal(signal.SIGTERM)
    printed = started.communicate(timeout=PATIENCE)[0]
    assert started.returncode == EXIT_PREEMPTED, printed
    assert finished_steps(tmp_path / "run")[-1] == steps_logged(tmp_path / "run") == 7
    assert run_made.start(tmp_path / "run") == 0
    assert lines(tmp_path / "run") == lines(uninterrupted)
    assert digests(tmp_path / "run") == digests(uninterrupted)


def test_a_kill_inside_an_evaluation_repeats_it(uninterrupted, tmp_path):
    started = start("run_made", tmp_path / "run", {"hold_evaluation": 10})
    events = lambda w: (w / "events.jsonl").read_text() if (w / "events.jsonl").exists() else ""  # noqa: E731
    begun = '"evaluation begins", "step": 10'
    wait_for(tmp_path / "run", lambda w: begun in events(w), started)
    started.kill()
    started.wait()
    assert finished_steps(tmp_path / "run")[-1] == 10  # saved before evaluating
    assert run_made.start(tmp_path / "run") == 0
    assert lines(tmp_path / "run") == lines(uninterrupted)


def stop_at(workdir, step):
    """Runs the first stage alone, which ends at `step`."""
    assert run_made.start(workdir, stages=run_made.CONFIG["stages"][:1]) == 0
    assert finished_steps(workdir)[-1] == step


def flip_a_bit(folder):
    """Flips one bit in the middle of every file that holds array data."""
    for path in folder.rglob("d/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", ["flipped bit", "missing file", "truncated run"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(uninterrupted, tmp_path, damage):
    workdir, printed = tmp_path / "run", []
    stop_at(workdir, 20)
    newest = workdir / "checkpoints" / "20"
    if damage == "flipped bit":
        flip_a_bit(newest / "params")
    elif damage == "missing file":
        (newest / "opt_state" / "manifest.ocdbt").unlink()
    else:
        text = (newest / "run" / "metadata").read_text()
        (newest / "run" / "metadata").write_text(text[: len(text) // 2])
    assert run_made.start(workdir, log=printed.append) == 0
    assert any("checkpoint 20 is damaged" in line and "trying the one before" in line for line in printed)
    assert "resumed at step 15 of 30" in printed
    assert (workdir / "checkpoints" / "20.damaged").is_dir()
    assert digests(workdir) == digests(uninterrupted)


def test_damaged_checkpoints_only_are_an_error_not_a_new_start(tmp_path):
    stop_at(tmp_path / "run", 20)
    for step in finished_steps(tmp_path / "run"):
        flip_a_bit(tmp_path / "run" / "checkpoints" / str(step) / "params")
    with pytest.raises(JaxptError, match=r"no whole checkpoint is left beside 15.damaged, 20.damaged"):
        run_made.start(tmp_path / "run", log=lambda line: None)


def test_resuming_on_another_mesh_agrees_within_rounding(uninterrupted, tmp_path):
    stop_at(tmp_path / "run", 20)
    assert run_made.start(tmp_path / "run", devices=4, log=lambda line: None) == 0
    ours, theirs = lines(tmp_path / "run"), lines(uninterrupted)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for a, b in zip(ours, theirs):
        if "train/loss" in a:
            np.testing.assert_allclose(a["train/loss"], b["train/loss"], rtol=1e-4)


@pytest.mark.slow
def test_two_hosts_train_resume_and_agree_with_one(uninterrupted, tmp_path):
    workdir = tmp_path / "run"
    for stages in (run_made.CONFIG["stages"][:1], run_made.CONFIG["stages"]):
        kinds = {"coordinator": free_address(), "devices": 4, "stages": stages}
        printed = finish([start("run_made", workdir, {**kinds, "process": i}, devices=2) for i in range(2)])
        marks.write(workdir, KeptByScore("entry", "metric", waits=4))  # read by one of the two, obeyed by both
    assert "resumed at step 20 of 30" in printed[0]
    assert (finished_steps(workdir), finished_steps(uninterrupted)) == ([15, 20, 25, 30], [20, 25, 30])
    ours, theirs = lines(workdir), lines(uninterrupted)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for a, b in zip(ours, theirs):
        if "train/loss" in a:
            np.testing.assert_allclose(a["train/loss"], b["train/loss"], rtol=1e-4)


def test_a_layer_of_a_checkpoint_is_one_chunk(uninterrupted):
    import tensorstore as ts

    folder = uninterrupted / "checkpoints" / "30" / "params"
    kvstore = {"driver": "ocdbt", "base": f"file://{folder}/", "path": "blocks.dense.gate/"}
    array = ts.open({"driver": "zarr", "kvstore": kvstore}).result()
    assert array.shape == (2, 16, 32)
    assert array.chunk_layout.read_chunk.shape == (1, 16, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, "config.seed=0, now it is 5"),
        ({"model": {**run_made.CONFIG["model"], "mlp": 64}}, "config.model.mlp=32, now it is 64"),
    ],
)
def test_a_workdir_of_another_run_is_refused(uninterrupted, changes, message):
    with pytest.raises(JaxptError, match=message):
        run_made.start(uninterrupted, **changes)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(JaxptError, match="is not empty and no run"):
        run_made.start(tmp_path)


def test_a_full_disk_is_told_in_one_line_and_earlier_checkpoints_stay(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    real = ocp.CheckpointManager.save

    def save(self, step, **kinds):
        if step >= 15:
            raise OSError(28, "No space left on device")
        return real(self, step, **kinds)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with pytest.raises(JaxptError, match="the disk is full") as error:
        run_made.start(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert finished_steps(tmp_path / "run")[-1] == 10
    monkeypatch.undo()
    assert run_made.start(tmp_path / "run") == 0


def test_a_norm_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(JaxptError, match="train/param_norm at step 1 is inf; there is no finite checkpoint yet"):
        run_made.start(tmp_path / "run", optimizer={"learning_rate": 1e30, "clip_norm": None})
