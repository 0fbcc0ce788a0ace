"""`jaxpt coordcheck`: pictures, numbers and a verdict; what it refuses."""

import json

import pytest

from benchmarks.made_sources import make_sources
from jaxpt import cli

CONFIG = """
def get_config(folder):
    return dict(
        model=dict(vocab_size=512, embed=64, heads=4, kv_heads=2, head_dim=16, mlp=128, layers=2),
        mup=dict(base=dict(embed=32, heads=2, mlp=64, layers=2)),
        sources=dict(a=dict(path=folder + "/a")),
        stages=[dict(duration="5 steps", batch_size=8, sequence_length=64, mixture=dict(a=1.0))],
        optimizer=dict(eps=1e-12, weight_decay=0.0),
    )
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coordcheck")
    make_sources(folder / "sources", rows=40)
    (folder / "config.py").write_text(CONFIG)
    return f"{folder / 'config.py'}:{folder / 'sources'}"


def check(config, out, *flags):
    return cli.main(["coordcheck", f"--config={config}", f"--output={out}", *flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.mup=None"], "has no section mup; set --config.mup.base.embed and the other base lengths"),
        (["--widths=32"], "give at least two --widths"),
        (["--widths=32,x"], "--widths=32,x must be numbers with commas between them"),
        (["--widths=32,40"], "--widths: 40 is not a width of the base shape's kind"),
        (["--rows=4000"], "--rows=4000 takes more"),
        (["--config.mup.base.mlp=None"], "config.mup.base.mlp is missing; the model has 128"),
    ],
)
def test_a_mistake_is_one_line(config, tmp_path, capsys, flags, message):
    assert check(config, tmp_path / "out", *flags) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_pictures_numbers_and_a_verdict(config, tmp_path, capsys):
    small = ["--widths=32,64", "--layers=1", "--steps=4", "--seeds=1", "--length=16"]
    code = check(config, tmp_path, *small, "--sweep", "--sweep_steps=3", "--rates=1e-3,1e-2")
    out = capsys.readouterr().out
    assert ("the coordinate check has passed" in out) == (code == 0)
    assert "best rates lie within" in out
    for name in ("coordinates", "sweep"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found.keys() == {"mup", "standard"}
        assert found["mup"]["widths"] == [32, 64]
