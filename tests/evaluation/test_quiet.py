"""Of lm_eval itself nothing is seen; a bar that it makes elsewhere than it did, or a question to git, would be."""

import contextlib
import shutil

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

import tqdm

from jaxpt.evaluation.harness import evaluating
from tests.evaluation import sums
from tests.evaluation.test_clean import Hashes


def shown(tmp_path, capfd):
    """Standard error of an evaluation whose standard error of perplexity is bootstrapped."""
    rows = [{"question": f"{n} plus 1 is", "gold": f" {n + 1}"} for n in range(12)]
    file = sums.write_task(tmp_path, rows)
    text = sums.TASK.replace("multiple_choice", "loglikelihood").replace('doc_to_choice: "{{choices}}"\n', "")
    text = text.replace("{{label}}", "{{gold}}").replace("metric: acc, aggregation: mean", "metric: perplexity")
    file.write_text("".join(line for line in text.splitlines(keepends=True) if "acc_norm" not in line))
    results = evaluating.evaluate(Hashes(), evaluating.find_tasks([str(file)], None))
    assert isinstance(results["results"]["sums"]["perplexity_stderr,none"], float)
    return capfd.readouterr().err


def test_no_bar_of_lm_eval_is_seen_nor_what_git_says(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no repository
    made = tqdm.tqdm
    error = shown(tmp_path, capfd)
    assert "it/s" not in error
    assert "git" not in error
    assert tqdm.tqdm is made


def test_without_that_they_are(tmp_path, capfd, monkeypatch):  # the proof above can fail
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluating, "quiet_lm_eval", contextlib.nullcontext)
    error = shown(tmp_path, capfd)
    assert "12/12" in error
    assert ("git" in error) == (shutil.which("git") is not None)
