"""The real loader under kills: on other numbers of hosts, with batch sizes that change, under weights that change."""

import json

import numpy as np
import pytest

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from tests.training import run_packed
from tests.training.processes import finish, free_address, start, steps_logged, wait_for
from tests.training.run_packed import ROWS, STAGES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sources")
    run_packed.make(path)
    return path


def launch(folder, workdir, hosts=1, devices=4, **settings):
    """Starts `hosts` processes that share `devices` simulated devices."""
    address, out = free_address(), []
    for i in range(hosts):
        several = {"coordinator": address, "processes": hosts, "process": i} if hosts > 1 else {}
        kinds = {"devices": devices, **several, **settings}
        out.append(start("run_packed", folder, workdir, kinds, devices=devices // hosts))
    return out


def kill_at(workdir, step, saved, processes):
    """Kills all processes, which stop at `step`, once it is logged and checkpoint `saved` is finished."""
    wait_for(workdir, lambda path: steps_logged(path) >= step and saved in finished_steps(path), *processes)
    for p in processes:
        p.kill()
        p.communicate()


def deliveries(folder, workdir):
    """What all hosts were given: step -> documents of the global batch. A step given twice must be given alike."""
    parts = {}
    for path in folder.glob(f"{workdir.name}.*.delivered"):
        for line in path.read_text().splitlines():
            step, first, documents = json.loads(line)
            for i, (tag, number) in enumerate(documents):
                assert parts.setdefault(step, {}).setdefault(first + i, (tag, number)) == (tag, number), step
    return {step: [rows[i] for i in range(len(rows))] for step, rows in sorted(parts.items())}


def oracle(batches):
    """No document twice, batches of the size of their stage, each prefix of a stage within one row of its shares."""
    seen, step = set(), 0
    for stage in STAGES:
        counts, weights = np.zeros(3), np.array(list(stage["mixture"].values()))
        for n in range(int(stage["duration"].split()[0])):
            assert len(batches[step]) == stage["batch_size"]
            for document in batches[step]:
                assert document not in seen, f"document {document} twice"
                seen.add(document)
                counts[document[0]] += 1
            step += 1
            assert np.all(np.abs(counts - weights / weights.sum() * (n + 1) * stage["batch_size"]) < 1 + 1e-6)
    assert step == len(batches)


@pytest.mark.slow
def test_a_run_on_one_host_goes_on_with_four_and_ends_with_two(folder, tmp_path):
    workdir = tmp_path / "elastic"
    kill_at(workdir, 7, 5, launch(folder, workdir, 1, hold_at=7))
    kill_at(workdir, 18, 15, launch(folder, workdir, 4, hold_at=18))
    printed = finish(launch(folder, workdir, 2))
    assert "resumed at step 15 of 32" in printed[0]
    batches = deliveries(folder, workdir)
    oracle(batches)
    ledger = read_run(workdir, finished_steps(workdir)[-1])["ledger"]
    rows = {n: sum(e["stop"] - e["start"] for e in ledger if e["name"] == n) for n in ROWS}
    assert rows == {n: sum(d[0] == i for b in batches.values() for d in b) for i, n in enumerate(ROWS)}
    broken = dict(batches)
    broken[12] = [*batches[12][:-1], batches[11][0]]  # an off-by-one at the stage boundary would look like this
    with pytest.raises(AssertionError, match="twice"):
        oracle(broken)


@pytest.mark.slow
def test_weights_that_followed_the_model_are_the_same_after_a_kill(folder, tmp_path):
    settings, printed = {"devices": 1, "reweight": "4 steps"}, []
    kill_at(tmp_path / "killed", 11, 10, launch(folder, tmp_path / "killed", hold_at=11, **settings))
    assert run_packed.start(folder, tmp_path / "killed", log=printed.append, **settings) == 0
    assert "resumed at step 10 of 32" in printed
    assert run_packed.start(folder, tmp_path / "whole", log=printed.append, **settings) == 0
    assert deliveries(folder, tmp_path / "killed") == deliveries(folder, tmp_path / "whole")
    logs = [read_run(tmp_path / w, 32)["schedule_log"]["anchors"] for w in ("whole", "killed")]
    decided = [[(a["step"], a["weights"]) for a in log if a["step"] in (4, 8, 16, 20, 24, 28)] for log in logs]
    assert decided[0] == decided[1]
    assert len(decided[0]) == 6  # not at 12, where a stage ends
    assert len({tuple(w) for _, w in decided[0]}) == 6
    planned = [a for a in logs[0] if a["step"] in (0, 12, 22)]
    assert [a["weights"] for a in planned] == [
        e["weights"] for e in read_run(tmp_path / "whole", 32)["schedule_log"]["entries"]
    ]
    documents = [d for b in deliveries(folder, tmp_path / "whole").values() for d in b]
    assert len(set(documents)) == len(documents)
