"""`jaxpt eval` as a command: over a mesh, in several processes, killed and started again."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import cli
from jaxpt.evaluation.harness.kept import KeptAnswers
from jaxpt.evaluation.harness.local_tasks import shipped
from tests.training.processes import free_address

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight passages, and six questions whose answers are generated."""
    folder = tmp_path_factory.mktemp("evalsets")
    texts = [f"One day, {name} saw a big red" for name in ("Lily", "Tom", "Sam", "Mia", "Ben", "Sue", "Tim", "Max")]
    rows = {
        "lambada": [
            {"context": text, "gold": f" {['ball', 'dog', 'tree', 'boat'][n % 4]}"} for n, text in enumerate(texts)
        ],
        "bbh": [{"task": "words", "input": text, "target": "ball"} for text in texts[:6]],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    task = shipped()["bbh"].read_text(encoding="utf-8")
    (folder / "short.yaml").write_text(task.replace("max_gen_toks: 64", "max_gen_toks: 10"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def arguments(shared, data):
    return [
        f"--model={shared / 'data/stories260K/hf'}",
        f"--tasks=lambada,{data / 'short.yaml'}",
        f"--data={data}",
        "--num_fewshot=0",
        "--batch_tokens=32",
        "--slots=1",
    ]


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """The folder of an evaluation on one device."""
    folder = tmp_path_factory.mktemp("whole")
    assert cli.main(["eval", *arguments, f"--output={folder}"]) == 0
    return folder


def start(arguments, devices=1):
    command = [sys.executable, "-m", "jaxpt", "eval", *arguments]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kept(folder):
    (file,) = (folder / "answers").glob("*.jsonl")
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def scores(folder):
    results = json.loads(sorted(folder.glob("results_*.json"))[-1].read_text())["results"]
    named = {(task, k): v for task, entry in results.items() for k, v in entry.items()}
    return {k: v for k, v in named.items() if isinstance(v, float) and "stderr" not in k[1]}


def same(folder, whole):
    """Texts equal, log-likelihoods within what another order of sums gives, scores likewise."""
    ours, theirs = ({e["key"]: e["value"] for e in kept(f)} for f in (folder, whole))
    if ours.keys() != theirs.keys():
        return False
    for key, value in theirs.items():
        if isinstance(value, str):
            if ours[key] != value:
                return False
        elif abs(ours[key][0] - value[0]) > 1e-4 or ours[key][1] != value[1]:
            return False
    a, b = scores(folder), scores(whole)
    return a.keys() == b.keys() and np.allclose([a[k] for k in a], [b[k] for k in a], rtol=1e-4)


def test_over_a_mesh_the_results_are_those_of_one_device(arguments, whole, tmp_path):
    assert cli.main(["eval", *arguments, f"--output={tmp_path}", "--mesh=fsdp=2,tensor=4"]) == 0
    assert same(tmp_path, whole)
    (file,) = (tmp_path / "answers").glob("*.jsonl")
    assert file.name == next((whole / "answers").glob("*.jsonl")).name  # the digest is of values, whatever the mesh


def test_two_processes_give_the_results_of_one_and_the_first_keeps_and_reports(arguments, whole, tmp_path):
    """Of what is kept already, only the first process knows."""
    (file,) = (whole / "answers").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / file.name).write_bytes(b"".join([*lines[:3], *lines[-1:]]))
    address = free_address()
    more = [f"--output={tmp_path}", "--mesh=fsdp=2,tensor=4", f"--coordinator={address}", "--processes=2"]
    started = [start([*arguments, *more, f"--process_id={i}"], devices=4) for i in range(2)]
    outputs = [p.communicate(timeout=400)[0] for p in started]
    assert [p.returncode for p in started] == [0, 0], outputs
    assert same(tmp_path, whole)
    assert len(kept(tmp_path)) == len(lines)
    assert "results in" in outputs[0]
    assert "results in" not in outputs[1]
    assert len(list(tmp_path.glob("results_*.json"))) == 1


def test_a_killed_evaluation_goes_on_and_computes_nothing_twice(arguments, whole, tmp_path, monkeypatch):
    """Killed while texts are generated; the answers that are kept are used, which a planted one shows."""
    total = len(kept(whole))
    process, end = start([*arguments, f"--output={tmp_path}"]), time.monotonic() + 300
    while time.monotonic() < end:
        found = list((tmp_path / "answers").glob("*.jsonl"))
        if found and found[0].read_bytes().count(b"\n") >= 9:  # eight log-likelihoods, a text
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob("results_*.json"))
    before = kept(tmp_path)
    assert 9 <= len(before) < total
    put, computed = KeptAnswers.put, []
    monkeypatch.setattr(KeptAnswers, "put", lambda self, key, value: computed.append(key) or put(self, key, value))
    assert cli.main(["eval", *arguments, f"--output={tmp_path}"]) == 0
    assert len(computed) == total - len(before)
    assert not {e["key"] for e in before} & set(computed)
    assert same(tmp_path, whole)
    (file,) = (tmp_path / "answers").glob("*.jsonl")
    first, *rest = file.read_text().splitlines(keepends=True)
    planted = {**json.loads(first), "value": [-50.0, False]}
    file.write_text("".join([json.dumps(planted) + "\n", *rest]))
    computed.clear()
    assert cli.main(["eval", *arguments, f"--output={tmp_path}"]) == 0
    assert not computed
    assert not same(tmp_path, whole)
    assert scores(tmp_path)["lambada", "perplexity,none"] > scores(whole)["lambada", "perplexity,none"] + 1
