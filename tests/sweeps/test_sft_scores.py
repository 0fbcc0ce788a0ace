"""Scores before and after a fine-tune: the table, the correlations, and when there are none."""

import json

import pytest

from jaxpt.errors import JaxptError
from jaxpt.sweeps.sft_pictures import base_against_after
from jaxpt.sweeps.sft_probe import ProbedModel
from jaxpt.sweeps.sft_scores import (
    ProbeResult,
    ProbeScore,
    correlation_table,
    correlations,
    markdown,
    read_kept,
    score_table,
    scores_of,
    write_results,
)


def result(step, loss, base, after, task="t"):
    model = ProbedModel(str(step), f"runs/a/checkpoints/{step}", "d", step, 64 * step, loss)
    scores = [[ProbeScore(task, "acc", value, 0.1, 9)] for value in (base, after)]
    return ProbeResult(model, *scores, (4.0, 3.0))


RISING = [result(1, 5.0, 0.1, 0.2), result(2, 4.0, 0.3, 0.5), result(3, 3.0, 0.2, 0.4), result(4, 2.0, 0.4, 0.6)]


def rho(results, of):
    (found,) = [c for c in correlations(results) if c.of == of]
    return found.rho


def test_base_and_after_in_one_order_correlate_and_a_falling_loss_against_both_as_by_hand():
    assert rho(RISING, "base, after") == 1.0
    # ranks of the loss 4 3 2 1, of the scores 1 3 2 4: 1 - 6 (9 + 0 + 0 + 9) / (4 * 15)
    assert rho(RISING, "loss, base") == pytest.approx(-0.8)
    assert rho(RISING, "loss, after") == pytest.approx(-0.8)


def test_another_order_of_the_scores_after_changes_the_correlation():
    turned = [result(1, 5.0, 0.1, 0.9), *RISING[1:]]
    assert rho(turned, "base, after") < 0.5


@pytest.mark.parametrize("count", [0, 1, 2])
def test_of_fewer_than_three_models_there_is_no_correlation_and_the_table_says_so(count):
    found = correlations(RISING[:count])
    assert all(c.rho is None and c.points == count for c in found)
    _, rows = correlation_table(found)
    assert [row[-1] for row in rows] == ["too few points"] * len(rows)
    assert len(rows) == (3 if count else 0)
    assert base_against_after(RISING[:count]) is None


def test_models_without_a_loss_count_only_where_no_loss_is_needed():
    some = [result(1, None, 0.1, 0.2), *RISING[1:]]
    assert {c.of: c.points for c in correlations(some)} == {"base, after": 4, "loss, base": 3, "loss, after": 3}


def test_scores_that_never_move_have_no_correlation_and_a_reason():
    still = [result(n, 5.0 - n, 0.25, 0.1 * n) for n in range(4)]
    (found,) = [c for c in correlations(still) if c.of == "base, after"]
    assert found.rho is None
    assert found.note == "all are equal on one side"


def test_a_group_stands_for_its_members():
    rows = [["mmlu", 0, "", "acc", 0.3, 0.1], ["mmlu_a", 0, 5, "acc", 0.2, 0.1], ["own", 0, 7, "acc", 0.5, ""]]
    got = scores_of(rows, {"mmlu": ["mmlu_a"]})
    assert got == [ProbeScore("mmlu", "acc", 0.3, 0.1, 5), ProbeScore("own", "acc", 0.5, None, 7)]


def test_the_table_has_a_line_for_each_model_and_score_and_markdown_holds_the_same(tmp_path):
    head, rows = score_table(RISING)
    assert len(rows) == 4
    line = dict(zip(head, rows[1]))
    assert (line["model"], line["training loss"], line["base"], line["after SFT"]) == ("2", 4.0, 0.3, 0.5)
    assert line["change"] == pytest.approx(0.2)
    text = markdown((["a", "b"], [["x|y", 1234], [0.12345678, ""]]))
    assert text == "| a | b |\n| --- | --- |\n| x\\|y | 1,234 |\n| 0.1235 |  |\n"
    page = write_results(tmp_path, RISING, correlations(RISING))
    assert sum(line.startswith("|") for line in page.read_text().splitlines()) == (2 + 4) + (2 + 3)
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [m["model"]["step"] for m in kept["models"]] == [1, 2, 3, 4]
    assert kept["correlations"][0] == {"task": "t", "metric": "acc", "of": "base, after", "rho": 1.0, "points": 4}


def test_the_picture_has_a_panel_for_each_score():
    both = [
        ProbeResult(a.model, [*a.base, *b.base], [*a.after, *b.after], None)
        for a, b in zip(RISING, [result(n, 5.0 - n, 0.1 * n, 0.2, "u") for n in range(4)])
    ]
    figure = base_against_after(both)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert titles == ["t, acc (rho +1.00)", "u, acc (all are equal on one side)"]


def test_a_damaged_file_of_a_part_is_named(tmp_path):
    (tmp_path / "base.json").write_text('{"scores": [')
    with pytest.raises(JaxptError, match=r"base.json is damaged; remove it, and that part is done again"):
        read_kept(tmp_path / "base.json")
