"""Of lm_eval's own progress bars nothing is seen; one that it makes elsewhere than it did would be."""

import contextlib

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

import tqdm

from jaxpt.evaluation.harness import evaluating
from tests.evaluation import sums
from tests.evaluation.test_clean import Hashes


def shown(tmp_path, capsys):
    """Standard error of an evaluation whose standard error of perplexity is bootstrapped."""
    rows = [{"question": f"{n} plus 1 is", "gold": f" {n + 1}"} for n in range(12)]
    file = sums.write_task(tmp_path, rows)
    text = sums.TASK.replace("multiple_choice", "loglikelihood").replace('doc_to_choice: "{{choices}}"\n', "")
    text = text.replace("{{label}}", "{{gold}}").replace("metric: acc, aggregation: mean", "metric: perplexity")
    file.write_text("".join(line for line in text.splitlines(keepends=True) if "acc_norm" not in line))
    results = evaluating.evaluate(Hashes(), evaluating.find_tasks([str(file)], None))
    assert isinstance(results["results"]["sums"]["perplexity_stderr,none"], float)
    return capsys.readouterr().err


def test_no_bar_of_lm_eval_is_seen(tmp_path, capsys):
    made = tqdm.tqdm
    assert "it/s" not in shown(tmp_path, capsys)
    assert tqdm.tqdm is made


def test_without_that_they_are(tmp_path, capsys, monkeypatch):  # the proof above can fail
    monkeypatch.setattr(evaluating, "silent_bars", contextlib.nullcontext)
    assert shown(tmp_path, capsys).count("12/12") >= 1
