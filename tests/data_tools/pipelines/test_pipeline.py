"""A whole pipeline: killed and run again it leaves the same bytes; mistakes are reported before it starts."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_tools.commands import inspect, pack, run, tokenize
from jaxpt.data.packed import PackedSource
from jaxpt.data.tokenized import TokenizedDocuments
from jaxpt.errors import JaxptError
from jaxpt.tokenizers import train_sentencepiece

ROOT = Path(__file__).resolve().parents[3]
WORDS = [f"w{i}" for i in range(300)]
CONFIG = """
def get_config(inputs):
    return {
        "input": inputs,
        "workers": 1,
        "steps": [
            {"command": "dedup", "options": {"engine": "numpy", "exact_only": True}},
            {"command": "decontaminate"},
            {"command": "tokenize"},
            {"command": "pack", "options": {"sequence_length": 32, "by": "source"}},
        ],
    }
"""


def text(seed, words=60):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "raw").mkdir()
    for part in range(3):
        rows = [{"id": f"{part}-{i}", "source": "ab"[i % 2], "text": text(part * 40 + i)} for i in range(40)]
        rows += [{"id": f"copy{part}", "source": "a", "text": text(0)}, {"id": "bad", "text": 5}]
        rows += [{"id": f"exam{part}", "source": "b", "text": text(7) + " " + text("item", 30)}]
        data = "".join(json.dumps(r) + "\n" for r in rows).encode()
        (folder / f"raw/{part}.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    (folder / "eval.jsonl").write_text(json.dumps({"id": "i", "task": "exam", "text": text("item", 30)}) + "\n")
    (folder / "config.py").write_text(CONFIG)
    train_sentencepiece([text(i) for i in range(50)], folder / "tokenizer.model", 272)
    return folder


def arguments(made, workdir):
    return [
        f"--config={made}/config.py:{made}/raw/*.gz",
        f"--workdir={workdir}",
        f"--config.tokenizer={made}/tokenizer.model",
        f"--config.eval={made}/eval.jsonl",
    ]


def contents(folder):
    left = ("steps/", "signatures/", ".tmp", ".jaxpt-")  # notes with paths or ids in them; what is only read again
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {n: p.read_bytes() for n, p in files.items() if not any(x in n for x in left) and ".partial-" not in n}


@pytest.fixture(scope="module")
def finished(made):
    assert run.main(arguments(made, made / "whole")) == 0
    return made / "whole"


def test_every_step_did_its_part(finished):
    removed = [json.loads(l) for f in (finished / "dedup/removals").iterdir() for l in f.read_text().splitlines()]
    assert sorted(r["rule"] for r in removed) == ["dedup-exact"] * 5
    hits = [json.loads(l) for f in (finished / "decontaminate/removals").iterdir() for l in f.read_text().splitlines()]
    assert {h["matches"][0][1] for h in hits} == {"exam"}
    a, b = PackedSource.open(finished / "pack/a"), PackedSource.open(finished / "pack/b")
    assert (a.documents, b.documents) == (60, 60)


def test_a_pipeline_killed_three_times_leaves_the_same_bytes(made, finished):
    workdir = made / "killed"
    marks = ["dedup/signatures/shards/0.json", "decontaminate/manifests/0.jsonl.zst.json", "tokenize/manifests"]
    command = [sys.executable, "-m", "data_tools", "run", *arguments(made, workdir)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    for mark in marks:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (workdir / mark).exists():
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, env=env, capture_output=True, timeout=600).returncode == 0
    assert contents(workdir) == contents(finished)


def test_a_second_call_does_nothing_and_a_changed_option_redoes_what_depends_on_it(made, finished, capsys):
    assert run.main([*arguments(made, finished), "--config.workers=2"]) == 0
    assert "==" not in capsys.readouterr().out
    more = "--config.steps[3].options.sequence_length=16"
    assert run.main([*arguments(made, finished), more, "--dry_run"]) == 0
    states = [re.split(r"\s{2,}", line)[1] for line in capsys.readouterr().out.splitlines()[2:6]]
    assert states == ["done", "done", "done", "to do"]


def test_mistakes_are_reported_before_anything_runs(made, tmp_path):
    for change, said in [
        ("--config.steps[0].command=dedupe", "did you mean 'dedup'"),
        ("--config.steps[1].name=dedup", "'dedup' is taken"),
        ("--config.steps[0].options.engin=x", "did you mean 'engine'"),
        ("--config.steps[3].options.sequence_length=many", "sequence_length"),
    ]:
        with pytest.raises(JaxptError, match=said):
            run.main([*arguments(made, tmp_path / "w"), change])
    without = [a for a in arguments(made, tmp_path / "w") if "tokenizer" not in a]
    with pytest.raises(JaxptError, match=r"steps\[2\] \(tokenize\).*--config\.tokenizer"):
        run.main(without)
    assert not (tmp_path / "w/dedup").exists()


def test_packing_tokenized_documents_is_packing_their_text(made, tmp_path):
    tokenizer = f"--tokenizer={made}/tokenizer.model"
    source = f"--input={made}/whole/decontaminate" if (made / "whole").exists() else f"--input={made}/raw"
    assert tokenize.main([source, f"--output={tmp_path}/t", tokenizer]) == 0
    for options in (
        ["--sequence_length=32"],
        ["--sequence_length=20", "--packer=concat", "--part=train", "--held_out=.3"],
    ):
        name = options[0][-2:]
        assert pack.main([f"--input={tmp_path}/t", f"--output={tmp_path}/a{name}", *options]) == 0
        assert pack.main([source, f"--output={tmp_path}/b{name}", tokenizer, *options]) == 0
        a, b = PackedSource.open(tmp_path / f"a{name}"), PackedSource.open(tmp_path / f"b{name}")
        assert a.fingerprint == b.fingerprint
    with pytest.raises(JaxptError, match="keeps no field 'repo'"):
        TokenizedDocuments(tmp_path / "t").values("repo")
    with pytest.raises(JaxptError, match="--no_eos was decided"):
        pack.main([f"--input={tmp_path}/t", f"--output={tmp_path}/c", "--sequence_length=32", "--no_eos"])


def test_inspect_shows_rules_examples_and_alarms(made, finished, capsys):
    assert inspect.main([str(finished), f"--html={made}/report.html", "--alarm=0.01"]) == 0
    shown = capsys.readouterr().out
    assert "dedup-exact" in shown
    assert "warning: dedup: a lost" in shown
    page = (made / "report.html").read_text()
    assert "what it repeats" in page
    assert page.count(text(0)[:40]) >= 2  # the copy and what it repeats, side by side


def test_packed_rows_as_a_tfds_data_set(made, finished):
    tfds = pytest.importorskip("tensorflow_datasets", reason="TFDS is not installed (jaxpt[tfds])")
    from data_tools.io.tfds_export import export

    source = PackedSource.open(finished / "pack/a")
    assert export(source).is_dir()
    data = tfds.data_source("packed_rows", data_dir=source.path / "tfds", split="train")
    assert len(data) == source.rows
    want = source.read(range(source.rows))
    for name in want:
        np.testing.assert_array_equal(np.stack([example[name] for example in data]), want[name])
