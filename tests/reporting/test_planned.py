"""`jaxpt schedule`: what is drawn is what would be trained, in the terminal and as a picture."""

import json

import numpy as np
import pytest

from jaxpt.commands import schedule
from jaxpt.config.schema import build, plain
from jaxpt.errors import JaxptError
from jaxpt.reporting.planned import draw, show
from jaxpt.training.config import RunConfig
from tests.training.run_made import CONFIG
from tests.training.test_past import COSINE, plan, stage, stop

STAGES = [
    stage("20480 tokens", name="main", batch_ramp=("16 from 5120 tokens",)),
    stage("8192 tokens", 4, COSINE, name="long", sequence_length=128, mixture={"b": 1.0}, learning_rate=5e-3),
]


def config(*stages):
    return build(RunConfig, {**CONFIG, "stages": list(stages)})


def test_the_curve_that_is_drawn_is_the_runs_own():
    drawn, run = schedule.planned(config(*STAGES)), plan(STAGES[0])
    assert (drawn.first, drawn.stop) == (0, 25 + 16)
    assert [drawn.rate(s) for s in range(25)] == [run.stages[run.stage_of(s)].rate(s) for s in range(25)]
    figure = draw(drawn)
    tokens, rates = figure.axes[0].lines[0].get_xydata().T
    assert list(rates) == [drawn.rate(s) for s in drawn.steps(2000)]
    assert list(tokens) == [drawn.tokens(s) for s in drawn.steps(2000)]
    sizes = figure.axes[1].patches[0].get_data()
    assert set(zip(sizes.edges[:-1].tolist(), sizes.values.tolist())) >= {(0, 8), (5120, 16), (20480, 4)}


def test_it_fits_into_eighty_columns_and_says_every_number(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = show(schedule.planned(config(*STAGES)))
    assert max(map(len, text.splitlines())) <= 80
    lines = {line[:11].strip(): line[11:] for line in text.splitlines()}
    assert lines["stage"].split("|")[1:] == ["main".ljust(48), "long"] or "|main" in lines["stage"]
    assert [part.strip() for part in lines["batch size"].split("|")[1:]] == ["8", "16", "4"]
    assert [part.strip() for part in lines["row length"].split("|")[1:]] == ["64", "128"]
    assert set(lines["a"].lstrip("|")) == {"▒"}  # half of the first stage, none of the second
    assert lines["b"].rstrip().endswith("█")
    assert "8 × 64" in text
    assert "4 × 128" in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_picture_has_the_background_of_its_theme(tmp_path, theme):
    from matplotlib.image import imread

    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain(config(*STAGES))))
    assert schedule.main([f"--config={path}", f"--picture={tmp_path}/{theme}.png", f"--theme={theme}"]) == 0
    corner = imread(tmp_path / f"{theme}.png")[0, 0, :3].mean()
    assert (corner > 0.9) == (theme == "light")
    assert (corner < 0.2) == (theme == "dark")


def test_a_run_that_would_be_lengthened_says_what_would_change(tmp_path, capsys, monkeypatch):
    before = plan(stage("40 steps", schedule=COSINE))
    item = stop(before, 30)
    monkeypatch.setattr(schedule, "newest_saved", lambda workdir: item)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain(config(stage("60 steps", schedule=COSINE)))))
    assert schedule.main([f"--config={path}", f"--workdir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "config.stages[0].duration was '40 steps', is '60 steps': what is done stays" in printed
    assert "30 … 60" in printed
    drawn = schedule.planned(config(stage("60 steps", schedule=COSINE)), item)
    assert drawn.rate(30) == before.stages[0].rate(30)
    assert min(drawn.steps(100)) == 30


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--theme=blue"], "--theme=blue is not one of light, dark"),
        (["--picture=out.txt"], "must end with .png, .svg or .pdf"),
        (["--workdir=nowhere"], "has no checkpoint that can be read"),
        (["--config.stages[0].duration=0 tokens"], "not a single step"),
        (["--config.stages[0].learning_rate=-1.0"], "must be at least 0"),
        (["--config.stages[0].schedule.name=cosine", "--config.stages[0].schedule.end=-1.0"], "is never below 0"),
        (["--config.branch_from=nowhere@3"], "is no run directory"),
        (["--config.branch.rows=apart"], "rows=apart needs which of how many siblings"),
    ],
)
def test_a_bad_plan_is_an_error_of_one_line_and_draws_nothing(tmp_path, argv, message):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(plain(config(*STAGES))))
    with pytest.raises(JaxptError) as error:
        schedule.main([f"--config={path}", *argv])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_shares_are_those_of_the_mixture():
    groups = {"x": {"weight": 0.6, "sources": {"a": 1.0}}, "b": 0.2}
    got = schedule.planned(config(stage(mixture=groups)))
    assert got.shares[0] == pytest.approx({"a": 0.75, "b": 0.25})
    assert np.isclose(sum(got.shares[0].values()), 1)
