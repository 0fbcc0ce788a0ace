"""The run report holds the run's figures and pictures, also of a run that has only begun."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from jaxpt.errors import JaxptError
from jaxpt.reporting import marks, pictures, write_report
from jaxpt.reporting.series import series, smooth
from jaxpt.training import rollbacks
from jaxpt.training.metrics import read
from jaxpt.training.rollbacks import PassedOver
from tests.models.tiny import VARIANTS, config


def run(path: Path, steps: int) -> Path:
    """A run directory with made metrics."""
    path.mkdir()
    (path / "model.json").write_text(json.dumps({"config": config().to_dict()}))
    stage = {"duration": "5 steps", "batch_size": 4, "sequence_length": 8, "mixture": {"code": 1.0}}
    plan = [{**stage, "name": "a"}, {**stage, "name": "b", "duration": "15 steps", "learning_rate": 2e-5}]
    planned = {"model": {"preset": "tiny-1m"}, "sources": {"code": {"path": "<b>"}}, "stages": plan}
    (path / "config.json").write_text(json.dumps(planned))
    begun = [{"event": "start", "step": 0, "mesh": {"fsdp": 4}}, {"event": "resume", "step": 3, "mesh": {"fsdp": 2}}]
    (path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in begun) + '{"event": "st')
    records = [{"step": 0, "tokens": 0, "eval/bpb/code": 5.0}]
    for s in range(1, steps + 1):
        record = {"step": s, "stage": "a" if s < 5 else "b", "tokens": s * 10, "train/loss": 3 - s / 10}
        record |= {"train/loss/code": 3 - s / 10, "data/share/code": 0.7, "data/wanted/code": 0.7 if s < 5 else 0.6}
        record |= {"data/deviation/code": 0.25 - s / 10, "perf/mfu": 0.5, "perf/step_s": 1.0, "perf/data_wait_s": 0.02}
        record |= {"optim/learning_rate": 1e-3, "perf/tokens_per_s": 100.0 + s, "train/grad_norm": 1.0}
        records.append({**record, "perf/warmup": True} if s == 1 else record)
    records.append({"step": steps, "tokens": steps * 10, "eval/bpb/code": 2.25})
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_the_report_shows_figures_and_pictures(tmp_path):
    page = write_report(run(tmp_path / "r", 10))
    text = page.read_text()
    for message in ("61", "5.0000 (step 0)", "2.2500 (step 10)", "training loss", "2.0000", "106", "&lt;b&gt;"):
        assert message in text, message
    for message in (
        "10 of 20 (50%)",
        "100 of 640",
        "more than 0.75 rows",
        "MFU 50.0%, 2.0% waiting",
        "5 … 20",
        "peak 2e-05",
    ):
        assert message in text, message
    assert "fsdp=2" in text
    assert "2, resumed at step 3" in text
    for message in ("2.9 → 2.6", "6, to 10", "% of rows", "70.00 (60.00 wanted)", "-0.75"):
        assert message in text, message
    for name in ("loss", "bits_per_byte", "learning_rate", "mixture", "throughput", "gradient_norm"):
        assert (page.parent / f"{name}.png").stat().st_size > 5000
        assert f'alt="{name}"' in text


def test_notes_are_shown_and_kept_for_the_next_report(tmp_path):
    path = run(tmp_path / "r", 10)
    assert "Samples" not in write_report(path).read_text()
    write_report(path, {"Samples": "1 < 2"})
    text = write_report(path).read_text()
    assert "<h2>Samples</h2><pre>1 &lt; 2</pre>" in text


def test_the_balance_of_experts_is_shown(tmp_path):
    path = run(tmp_path / "r", 10)
    (path / "model.json").write_text(json.dumps({"config": VARIANTS["moe_mixed"].to_dict()}))
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for r in records[1:-1]:
        s = r["step"]
        r |= {"moe/max_violation": 2.0 / s, "moe/max_load": 1 + 2.0 / s, "moe/min_load": 1 - 1 / s}
        r |= {"moe/entropy": 1.25, "moe/dead_experts": 3.0 if s < 3 else 0.0}
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    page = write_report(path)
    text = page.read_text()
    for message in ("Mixtures of experts", "max_violation", "0.2000 (step 10)", "3.0000 (step 1)", "4 experts of 12"):
        assert message in text, message
    assert (page.parent / "experts.png").stat().st_size > 5000
    assert 'alt="experts"' not in write_report(run(tmp_path / "dense", 10)).read_text()


def test_a_run_that_has_only_begun_is_reported(tmp_path):
    path = run(tmp_path / "r", 1)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:20])  # the second line is being written
    assert "bits_per_byte" in write_report(path).read_text()


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(JaxptError, match="is not a run directory"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(JaxptError, match="holds no records yet"):
        write_report(tmp_path)


def test_series_and_running_means():
    found = series([{"step": 1, "a/x": 1.0}, {"step": 2, "a/x": 3.0, "a/y": 2, "b": 1}], "a/")
    assert {k: v[1].tolist() for k, v in found.items()} == {"x": [1.0, 3.0], "y": [2.0]}
    np.testing.assert_allclose(smooth(np.array([0.0, 3.0, 6.0, 3.0]), 3), [1.5, 3.0, 4.0, 4.5])


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.filterwarnings("error")
def test_values_that_are_not_finite_are_shown_as_such(tmp_path, bare):
    path = run(tmp_path / "r", 10)
    odd = {"train/loss": "nan", "train/loss/code": "nan", "train/grad_norm": "inf", "eval/bpb/code": "-inf"}
    record = {"step": 11, "stage": "b", "tokens": 110, "optim/learning_rate": 1e-3}
    if bare:  # as versions before wrote it
        record |= {k: float(v) for k, v in odd.items()}
    else:
        record |= dict.fromkeys(odd) | {"not_finite": odd}
    with open(path / "metrics.jsonl", "a") as f:
        f.write(json.dumps(record) + "\n")
    text = write_report(path).read_text()
    assert "training loss, last step logged</td><td>nan" in text
    assert "-inf (step 11)" in text


def test_a_source_has_one_color_in_all_pictures(tmp_path):
    records = []
    for s in range(1, 9):
        shares = {"data/share/b": 0.2, "data/share/a": 0.8, "train/loss/a": 2.0, "data/wanted/a": 0.8}
        later = {"train/loss/b": 1.0, "eval/bpb/b": 1.0, "eval/bpb/held": 2.0} if s > 2 else {}
        records.append({"step": s, "stage": "x", **shares, **later})
    color = pictures.colors(records)
    assert sorted(color) == ["a", "b", "held"]
    assert len(set(color.values())) == 3
    drawn = {}
    for draw in (pictures.loss, pictures.bits_per_byte, pictures.mixture):
        figure = draw(records)
        legend = (figure.legends or (figure.axes[0].get_legend() and [figure.axes[0].get_legend()]))[0]
        for handle, text in zip(legend.legend_handles, legend.get_texts()):
            of = handle.get_facecolor() if hasattr(handle, "get_facecolor") else handle.get_color()
            drawn.setdefault(text.get_text(), set()).add(to_hex(of))
        plt.close(figure)
    assert drawn == {name: {to_hex(c)} for name, c in color.items()}


def test_the_report_fits_a_phone_and_the_dark(tmp_path):
    text = write_report(run(tmp_path / "r", 10)).read_text()
    assert 'name="viewport" content="width=device-width' in text
    assert text.count('<div class="scroll"><table>') == text.count("<table>") > 3
    assert "prefers-color-scheme: dark" in text
    assert "img { filter: invert" in text


def guarded(path: Path) -> Path:
    """A run with skipped steps, norms, checkpoints and a rollback."""
    workdir = run(path, 10)
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for r in records[1:-1]:
        r |= {"guard/skipped": float(r["step"] >= 3), "guard/not_finite": 0.0, "guard/spike_score": 0.1}
        r |= {f"watch/{what}/embed.mlp": 1.0 + r["step"] for what in ("params", "grads", "updates")}
        r["trained_tokens"] = 60
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    happened = [("save", 2), ("save", 4), ("save", 4), ("evaluation ends", 10), ("save", 400)]
    events = [{"event": "start", "step": 0}, *({"event": name, "step": step} for name, step in happened)]
    (workdir / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    rollbacks.append(workdir, PassedOver(6, 8, 4, 8, "2 spikes in the steps 7 to 8"))
    return workdir


def test_what_happened_to_the_steps_is_marked_and_said(tmp_path):
    workdir = guarded(tmp_path / "r")
    records = read(workdir / "metrics.jsonl")
    found = marks.marks_of(workdir, records, read(workdir / "events.jsonl"))
    assert (found.saved, found.evaluated, found.skipped) == ([2, 4], [10], [3])  # nothing after the last step
    figure = pictures.loss(records)
    edges, drawn = figure.axes[0].get_xlim(), len(figure.axes[0].lines)
    marks.draw(figure, found)
    axes = figure.axes[0]
    assert axes.get_xlim() == edges
    assert [line.get_xdata().tolist() for line in axes.lines[drawn:]] == [[2, 4], [10], [3], [8]]
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (6, 2)
    assert [t.get_text() for t in figure.legends[-1].get_texts()] == [
        *("checkpoint", "evaluation", "skipped by the guard", "rolled back", "passed over")
    ]
    plt.close(figure)
    page = write_report(workdir)
    text = page.read_text()
    for message in ("1 skipped, 0 not finite; spike score 10.00%", "7 to 8 (at step 8, 2 spikes", "60", 'alt="norms"'):
        assert message in text, message


def test_a_run_without_guards_has_no_marks_of_them(tmp_path):
    workdir = run(tmp_path / "r", 10)
    text = write_report(workdir).read_text()
    assert "as the guard saw" not in text
    assert "steps passed over" not in text
    assert 'alt="norms"' not in text
    found = marks.marks_of(workdir, read(workdir / "metrics.jsonl"), [])
    assert found == marks.Marks([], [], [], (), [])
