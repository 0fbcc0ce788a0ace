"""`jaxpt reshape`: real model and text through the command, equal to the library, refusals, nothing half-written."""

import json

import jax
import numpy as np
import pytest

from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.cli import main
from jaxpt.data import PackedSource
from jaxpt.data.build import Packing, build
from jaxpt.reshape import Scores, apply, subclone_plan, weight_scores
from jaxpt.reshape.stream import InMemory
from tests.reshape.stories import TEXT, stories

SUBCLONE = "configs/reshape/subclone.py"


@pytest.fixture(scope="module")
def bundle(shared, tmp_path_factory):
    return save_bundle(stories(shared), tmp_path_factory.mktemp("reshape") / "stories")


@pytest.fixture(scope="module")
def packed(shared, bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    (folder / "t.jsonl").write_text("".join(json.dumps({"id": i, "text": TEXT * 3}) + "\n" for i in range(40)))
    build(str(folder / "t.jsonl"), folder / "packed", open_bundle(bundle).tokenizer(), 64, Packing(bos=True, eos=False))
    return folder / "packed"


def run(*args):
    return main(["reshape", *map(str, args)])


def test_the_command_streams_what_the_library_computes(bundle, tmp_path, capsys):
    out = tmp_path / "small"
    assert run(f"--config={SUBCLONE}", f"--from={bundle}", f"--to={out}", "--config.target.mlp=100") == 0
    assert "data-free scores" in capsys.readouterr().out
    small, big = open_bundle(out), open_bundle(bundle)
    plan = subclone_plan(big.config, {"mlp": 100}, weight_scores(InMemory(big.config, big.params())))
    jax.tree.map(np.testing.assert_array_equal, small.params(), apply(plan, big.params()))
    small.verify()
    assert small.tokenizer_fingerprint == big.tokenizer_fingerprint
    entry = small.lineage[-1]
    assert (entry["op"], entry["tokens"], entry["parameters"]) == ("subclone", 0, small.config.param_count())


def test_scores_from_data_are_kept_drawn_and_reused_for_another_shape(bundle, packed, tmp_path, capsys):
    kept, source = tmp_path / "scores.npz", f"{{'text': '{packed}'}}"
    common = [f"--from={bundle}", f"--config.scores={kept}"]
    first = [f"--config={SUBCLONE}:compensated", f"--to={tmp_path / 'a'}", f"--config.calibration.sources={source}"]
    first += ["--config.calibration.batches=2", "--config.target.mlp=100", "--config.target.embed=48"]
    assert run(*common, *first, f"--pictures={tmp_path / 'pictures'}") == 0
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir())[:2] == ["embed.png", "heads.png"]
    entry = open_bundle(tmp_path / "a").lineage[-1]
    assert entry["tokens"] == 2 * 2 * 8 * 64  # one pass for scores, one for second moments
    assert entry["scores"]["data"]["sources"]["text"] == PackedSource.open(packed).fingerprint
    assert Scores.load(kept).meta["tokens"] == 2 * 8 * 64
    capsys.readouterr()
    assert run(*common, f"--config={SUBCLONE}", f"--to={tmp_path / 'b'}", "--config.target.layers=3") == 0
    assert "scores from" in capsys.readouterr().out
    assert len(open_bundle(tmp_path / "b").config.layers) == 3


def test_transforms_compose_in_order(bundle, packed, tmp_path):
    config = tmp_path / "two.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'transforms': [{'name': 'prune_depth'}, {'name': 'merge_kv'}, {'name': 'subclone'}],\n"
        f"        'calibration': {{'sources': {{'t': '{packed}'}}, 'batches': 1}},\n"
        "        'target': {'layers': 4, 'kv_heads': 2, 'heads': 8, 'mlp': 120}})\n"
    )
    assert run(f"--config={config}", f"--from={bundle}", f"--to={tmp_path / 'c'}") == 0
    made = open_bundle(tmp_path / "c")
    assert [e["op"] for e in made.lineage[-3:]] == ["drop_and_rescale", "merge_kv", "subclone"]
    assert (len(made.config.layers), made.config.kv_heads, made.config.heads, made.config.mlp) == (4, 2, 8, 120)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--config.target.mlp=4000"], "target.mlp is 4000, larger than the source's 172"),
        (["--config.target.mpl=40"], "did you mean 'mlp'"),
        (["--config.transforms[0].scaling=fanin"], "did you mean 'fan_in'"),
        (["--config.calibration.sources={'a': 'nowhere'}"], "nowhere is no packed source"),
        (["--config.transforms[0].compensate=True", "--config.target.mlp=90"], "needs calibration data"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(bundle, tmp_path, capsys, extra, said):
    assert run(f"--config={SUBCLONE}", f"--from={bundle}", f"--to={tmp_path / 'x'}", *extra) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert said in error[0]
    assert list(tmp_path.iterdir()) == []
