"""Several runs in one page: ends, curves over tokens, and the keys in which their configs differ."""

import json

import pytest

from jaxpt import cli
from jaxpt.errors import JaxptError
from jaxpt.reporting.comparison import ComparedRun, config_differences, ends, short_names, write_comparison
from tests.reporting.test_report import run


def changed(path, **stage):
    values = json.loads((path / "config.json").read_text())
    values["stages"][0].update(stage)
    (path / "config.json").write_text(json.dumps(values))
    return path


def test_the_page_shows_ends_curves_and_differences(tmp_path, capsys):
    one, two = run(tmp_path / "one", 10), changed(run(tmp_path / "two", 6), batch_size=8)
    assert cli.main(["report", str(one), str(two), f"--output={tmp_path / 'page'}"]) == 0
    page = tmp_path / "page/index.html"
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    for expected in ("2 runs compared", ">one<", ">two<", "stages[0].batch_size", "<td>4</td><td>8</td>", "2.2500"):
        assert expected in text, expected
    assert "sequence_length" not in text  # the same in both
    images = {p.stem for p in page.parent.glob("*.png")}
    assert images == {"train_loss", "train_loss_by_name", "eval_by_name", "optim_learning_rate", "train_grad_norm"}
    assert all(f'alt="{name}"' in text for name in images)


def test_ends_are_those_of_the_last_record_and_means_of_the_last_tenth():
    records = [{"step": s, "tokens": 10 * s, "train/loss": float(s), "flops": 7.0 * s} for s in range(1, 21)]
    head, rows = ends([ComparedRun("a", [*records, {"step": 20, "tokens": 200, "eval/bpb/x": 0.5}], {})])
    assert dict(zip(head, rows[0])) == {
        "run": "a", "tokens": "200", "steps": "20", "FLOPs": "140", "training loss, last tenth": "19.5000",
        "tokens/s": "", "bpb/x": "0.5000",
    }  # fmt: skip


def test_keys_that_differ_are_named_one_by_one_also_within_lists():
    stage = {"name": "a", "duration": "5 steps", "mixture": {"x": 1.0}, "batch_size": 4}
    one = ComparedRun("one", [], {"seed": 0, "stages": [stage]})
    two = ComparedRun("two", [], {"seed": 0, "stages": [{**stage, "batch_size": 8}, {**stage, "name": "b"}]})
    head, rows = config_differences([one, two])
    assert head == ["key", "one", "two"]
    assert rows == [["stages[0].batch_size", "4", "8"], ["stages[1]", "", "b, 5 steps, {'x': 1.0}"]]
    assert config_differences([one, one])[1] == []


def test_runs_are_called_by_what_differs_in_their_paths(tmp_path):
    assert short_names(["/a/b/one", "/a/b/two/points/000"]) == ["one", "two/points/000"]
    with pytest.raises(JaxptError, match="/a/b is given twice"):
        short_names(["/a/b", "/a/c", "/a/b"])


def test_what_is_no_run_is_one_line(tmp_path):
    with pytest.raises(JaxptError, match="is not a run directory"):
        write_comparison([tmp_path, run(tmp_path / "one", 3)], tmp_path / "page")
