"""The report's tables and picture of scores beside the loss."""

import json

import matplotlib.pyplot as plt
import pytest

from jaxpt.checkpoints import marks, run_item
from jaxpt.checkpoints.marks import KeptByScore, ScoredCheckpoint
from jaxpt.reporting import score_pictures, scores, write_report
from jaxpt.reporting.comparison import write_comparison
from jaxpt.training import followed
from tests.reporting.test_report import run

LEG = {"stage": "a", "first": 0, "stop": 4, "batch_size": 4, "sequence_length": 8}
BITS = [5.0, 4.0, 3.5, 3.0, 2.0]


def records(steps=(2, 4, 6, 8, 10), entry="tasks"):
    """The loss falls; accuracy rises until step 6 and falls again; bits per byte fall with the loss."""
    out = []
    for s in range(1, 11):
        out.append({"step": s, "stage": "a" if s <= 4 else "b", "tokens": s * 10, "train/loss": 3 - s / 10})
    for i, s in enumerate(steps):
        values = {f"eval/{entry}/t/acc": 0.5 - abs(6 - s) / 20 - s / 1000, f"eval/{entry}/t/acc_stderr": 0.05}
        out.append({"step": s, "tokens": s * 10, **values, f"eval/{entry}/t/bits_per_byte": BITS[i]})
        out.append({"step": s, "eval/bpb/web": 4 - s / 10, "eval/bpb/code": 2 - s / 10})
    return sorted(out, key=lambda r: r["step"])


def test_losses_and_scores_stand_side_by_side():
    steps = scores.scored_steps(records(), ["tasks"])
    head, rows = scores.by_checkpoint(steps, kept=[6])
    assert head == ["step", "stage", "tokens", "training loss", "held-out bits per byte", "t acc", "t bits_per_byte"]
    assert rows[1] == ["4", "a", "40", "2.75", "2.6", "0.396 ± 0.05", "4"]  # losses of steps 1 to 4, in stage a
    assert rows[2][:2] == ["6 ★", "b"]
    assert rows[2][3] == "2.45"  # of steps 5 and 6 alone
    assert [row[0] for row in scores.by_checkpoint(steps)[1]] == ["2", "4", "6", "8", "10"]


def test_of_many_checkpoints_the_best_and_the_last_are_among_those_shown():
    many = [scores.ScoredStep(s, "a", s, 1.0, float("nan"), {"t/acc": 0.5}) for s in range(1, 401)]
    head, rows = scores.by_checkpoint(many, kept=[7])
    assert "held-out bits per byte" not in head
    shown = [int(row[0].split()[0]) for row in rows]
    assert len(shown) <= scores.MOST + 1
    assert 7 in shown
    assert shown[-1] == 400


def test_stages_have_their_first_best_and_last():
    head, rows = scores.by_stage(scores.scored_steps(records(), ["tasks"]), ["t/bits_per_byte"])
    assert head == ["stage", "", "first", "best", "last"]
    assert ["b", "t acc", "0.494 (step 6)", "0.494 (step 6)", "0.29 (step 10)"] in rows
    assert ["b", "t bits_per_byte", "3.5 (step 6)", "2 (step 10)", "2 (step 10)"] in rows
    assert ["a", "training loss", "2.85 (step 2)", "2.75 (step 4)", "2.75 (step 4)"] in rows


def test_correlation_and_noise_say_how_much_they_rest_on():
    steps = scores.scored_steps(records(), ["tasks"])
    head, (acc, bits) = scores.reliability(steps)
    assert head[2:4] == ["ρ with training loss", "ρ with held-out bits per byte"]
    assert bits[1:4] == ["5", "+1.00 (5 points)", "+1.00 (5 points)"]
    assert acc[2] == "+0.30 (5 points)"  # 1 - 6 (9 + 0 + 4 + 1 + 0) / (5 (25 - 1))
    assert acc[4].endswith("(last 5)")
    few = scores.reliability(steps[:2])[1][0]
    assert few[1:] == ["2", "", "", "", "", ""]


def test_the_correlation_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    steps = scores.scored_steps(records(), ["tasks"])
    rho = stats.spearmanr([s.loss for s in steps], [s.scores["t/acc"] for s in steps]).statistic
    assert scores.reliability(steps)[1][0][2] == f"{rho:+.2f} (5 points)"


def test_scores_of_several_entries_keep_their_entrys_name():
    both = [*records(), *records(entry="more")]
    steps = scores.scored_steps(sorted(both, key=lambda r: r["step"]), ["tasks", "more"])
    assert scores.names_of(steps) == ["tasks/t/acc", "tasks/t/bits_per_byte", "more/t/acc", "more/t/bits_per_byte"]


def test_the_picture_has_losses_above_and_scores_below():
    figure = score_pictures.scores(records(), scores.scored_steps(records(), ["tasks"]), [(6, "t/acc")])
    top, bottom, right = figure.axes
    label = lambda axes: [t.get_text() for t in axes.get_legend().get_texts()]  # noqa: E731
    assert label(top) == ["training loss (left)", "held-out web", "held-out code", "t bits_per_byte"]
    assert label(bottom) == ["t acc"]
    rings = [line for line in bottom.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xydata().tolist() for line in rings] == [[[6.0, 0.494]]]
    assert right.get_ylabel() == "bits per byte"
    plt.close(figure)
    assert score_pictures.scores(records(), []) is None


def followed_run(folder):
    """A run's folder with a follower's records, and checkpoints 6 and 10 of which 6 is kept."""
    path = run(folder, 10)
    for record in (r for r in records() if "eval/tasks/t/acc" in r):
        facts = {"of_stage": "b", "digest": "d", "asked": "x", "time": 1.0}
        followed.add(path, "tasks", {**record, **facts})
    scored = []
    for step in (6, 10):
        facts = {"step": step, "tokens": step, "model": {}, "history": [LEG], "digests": {"p": [str(step)]}}
        item = run_item.seal(facts)
        (path / f"checkpoints/{step}/run").mkdir(parents=True)
        (path / f"checkpoints/{step}/_CHECKPOINT_METADATA").touch()
        (path / f"checkpoints/{step}/run/metadata").write_text(run_item.text(item))
        scored.append(ScoredCheckpoint(step, "b", marks.digest_of(item), {6: 0.494, 10: 0.29}[step]))
    marks.write(path, KeptByScore("tasks", "t/acc", True, 0, tuple(scored)))
    return path


def test_the_page_of_a_run_shows_what_a_follower_scored(tmp_path):
    path = followed_run(tmp_path / "r")
    page = write_report(path)
    text = page.read_text()
    for message in (
        "<h2>Scores beside the loss</h2>",
        "<td>6 ★</td><td>b</td>",
        "<td>0.494 ± 0.05</td>",
        "<h2>Scores by stage</h2>",
        "<td>r@best/tasks/b</td><td>6</td><td>t/acc</td><td>0.494</td>",
        "<h2>How far the scores can be trusted</h2>",
        "(last 5)",
        'alt="scores"',
        "5.0000 (step 0)",  # held-out documents stay where they were
    ):
        assert message in text, message
    assert "tasks/t/acc</td><td>" not in text  # scores stand in their own tables alone
    assert (page.parent / "scores.png").stat().st_size > 5000


def test_a_run_without_scores_has_no_such_tables(tmp_path):
    page = write_report(run(tmp_path / "r", 10))
    assert "Scores beside the loss" not in page.read_text()
    assert not (page.parent / "scores.png").exists()


def test_a_comparison_shows_the_scores_of_followers(tmp_path):
    paths = [followed_run(tmp_path / name) for name in ("a", "b")]
    assert "tasks/t/acc" in write_comparison(paths, tmp_path / "out").read_text()
    assert json.loads((paths[0] / "scores/tasks/scores.jsonl").read_text().splitlines()[0])["step"] == 2
