"""Runs that distil by command: the ancestor as teacher, resume bit for bit, teachers of each kind, and their FLOPs."""

import shutil
from types import SimpleNamespace

import pytest

from benchmarks.made_sources import make_sources
from jaxpt import cli
from jaxpt.api import load
from jaxpt.bundles import open_bundle
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.commands.train import open_plan
from jaxpt.config.file import load as load_config
from jaxpt.errors import JaxptError
from jaxpt.models.size import flops_per_token
from jaxpt.tokenizers import Tokenizer
from jaxpt.training import frozen
from jaxpt.training.config import RunConfig
from jaxpt.training.frozen import origin_of_layers, pin_frozen
from jaxpt.training.metrics import read
from jaxpt.training.overview import stages as stages_table
from tests.reshape.stories import stories

pytestmark = pytest.mark.newest

CONFIG = """
def get_config(folder):
    stage = dict(batch_size=8, sequence_length=16, mixture=dict(a=0.5, b=0.3, c=0.2), schedule=dict(name="constant"))
    model = dict(vocab_size=512, embed=16, heads=2, kv_heads=2, head_dim=8, mlp=32, layers=4, tie_embeddings=True)
    return dict(
        model=model,
        sources={n: dict(path=folder + "/" + n) for n in "abc"},
        stages=[dict(stage, duration="3 steps")],
        optimizer=dict(learning_rate=1e-2),
        checkpoint=dict(every="1 steps", keep=9),
        metrics=dict(every=1, tensorboard=False),
        sharding=dict(mesh=dict(fsdp=4, tensor=2)),
    )
"""
STUDENT = """
def distilling(c, bundle):
    plain = dict(c["stages"][0], duration="2 steps")
    objective = dict(name="distill", hidden=dict(start=0.3))
    first = dict(plain, duration="4 steps", objective=objective, microbatches=2)
    return dict(c, model={}, init_from=bundle, stages=[first, dict(plain, mixture=dict(b=1.0))])


def get_config(place):
    folder, bundle = place.split("+")
    return distilling(BASE(folder), bundle)
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A folder with sources, a trained parent, a student that lacks layers 1 and 2 of its 4, and its finished run."""
    folder = tmp_path_factory.mktemp("distil")
    make_sources(folder / "sources", rows=60, length=16)
    (folder / "config.py").write_text(CONFIG)
    (folder / "student.py").write_text(CONFIG.replace("get_config", "BASE") + STUDENT)
    sources = folder / "sources"
    assert cli.main(["train", f"--config={folder / 'config.py'}:{sources}", f"--workdir={folder / 'parent'}"]) == 0
    reshape = ["reshape", "--config=configs/reshape/subclone.py", f"--from={folder / 'parent'}"]
    layers = ["--config.target.layers=2", "--config.transforms[0].depth=middle"]
    assert cli.main([*reshape, f"--to={folder / 'small'}", *layers]) == 0
    assert distil(folder, folder / "run") == 0
    return folder


def named(folder):
    return f"--config={folder / 'student.py'}:{folder / 'sources'}+{folder / 'small'}"


def distil(folder, workdir, *overrides):
    return cli.main(["train", named(folder), f"--workdir={workdir}", *overrides])


def teacher(path):
    return f"--config.stages[0].objective.teacher={path}"


def losses(workdir):
    return [
        {k: v for k, v in r.items() if k.startswith("train/")} for r in read(workdir / "metrics.jsonl") if "tokens" in r
    ]


def test_a_teacher_left_out_is_the_checkpoint_that_the_student_was_cut_from(setting):
    saved = read_run(setting / "run", 6)
    assert saved["frozen"][""]["path"] == str(setting / "parent" / "checkpoints" / "3")
    assert "extra" not in saved  # gone with its stage
    assert "extra/values/projection" in read_run(setting / "run", 4)["digests"]
    records = losses(setting / "run")
    assert all({"train/divergence", "train/agreement", "train/hidden_loss"} <= r.keys() for r in records[:4])
    assert all("train/divergence" not in r for r in records[4:])
    config = load_config(RunConfig, named(setting).removeprefix("--config="), [])
    plan, _, _ = open_plan(config)
    assert plan.stages[0].config.objective.hidden_layers == ((0, 2),)
    assert plan.stages[0].config.objective.hidden_width == 16


def test_layers_lead_back_to_the_ancestor_through_several_steps():
    lineage = [
        {"op": "import"},
        {"op": "subclone", "layers": [0, 2, 3, 5], "source": {}},
        {"op": "drop_layers", "options": {"drop": [1]}},
        {"op": "merge_kv", "options": {}},
    ]
    assert origin_of_layers(lineage, 6, 3) == (0, 3, 5)
    assert origin_of_layers([*lineage, {"op": "grow_depth", "options": {}}], 6, 5) is None
    assert origin_of_layers(lineage[:1], 6, 6) is None


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_a_resume_is_bit_for_bit_the_run_that_was_not_stopped(setting, tmp_path, step):
    shutil.copytree(setting / "run", tmp_path / "run")
    for later in finished_steps(tmp_path / "run"):
        if later > step:
            shutil.rmtree(tmp_path / "run" / "checkpoints" / str(later))
    assert distil(setting, tmp_path / "run") == 0
    now, then = read_run(tmp_path / "run", 6), read_run(setting / "run", 6)
    assert now["digests"] == then["digests"]
    assert now["flops"] == then["flops"]
    assert losses(tmp_path / "run") == losses(setting / "run")


def test_the_forward_passes_of_the_teacher_count_in_plan_checkpoint_lineage_metrics_and_report(setting):
    parent, small = load(setting / "parent").config, open_bundle(setting / "small").config
    plain = flops_per_token(small, 16)
    both = plain + flops_per_token(parent, 16, backward=False) + 6 * 16 * 16  # the projection of one pair
    total = 4 * 8 * 16 * both + 2 * 8 * 16 * plain
    assert read_run(setting / "run", 6)["flops"] == pytest.approx(total)
    assert load(setting / "run").lineage[-1]["flops"] == pytest.approx(total)
    records = [r for r in read(setting / "run" / "metrics.jsonl") if "tokens" in r]
    assert records[-1]["flops"] == pytest.approx(total)
    assert records[0]["perf/frozen_share"] == pytest.approx(1 - plain / both)
    assert "perf/frozen_share" not in records[-1]
    mfu = [r["perf/mfu"] / r["perf/tokens_per_s"] for r in records]
    assert mfu[0] / mfu[-1] == pytest.approx(both / plain)
    plan, _, _ = open_plan(load_config(RunConfig, named(setting).removeprefix("--config="), []))
    table = stages_table(plan)
    assert f"{4 * 8 * 16 * both:.3g}" in table
    assert f"frozen models take {1 - plain / both:.1%} of the FLOPs" in table
    assert cli.main(["report", f"--workdir={setting / 'run'}"]) == 0
    page = (setting / "run" / "report" / "index.html").read_text()
    assert f"{total:.3g}, forward passes of frozen models included" in page


def test_a_run_says_what_its_mfu_counts(setting, tmp_path, capsys):
    assert distil(setting, tmp_path / "with", "--config.stages[0].duration=1 steps") == 0
    said = capsys.readouterr().out
    assert "a forward pass of each frozen model included" in said
    plain = "--config.stages[0].objective.alpha.start=0", "--config.stages[0].objective.alpha.end=None"
    off = "--config.stages[0].objective.hidden.start=0"
    assert distil(setting, tmp_path / "without", *plain, off, "--config.stages[0].duration=1 steps") == 0
    said = capsys.readouterr().out
    assert "no teacher, as alpha is 0" in said
    assert "frozen model" not in said


def test_checkpoints_and_hugging_face_directories_are_teachers(setting, tmp_path):
    short = ["--config.stages[0].duration=2 steps", "--config.stages[1].duration=1 steps"]
    parent = setting / "parent" / "checkpoints" / "3"
    assert cli.main(["export", f"--from={parent}", f"--to={tmp_path / 'hf'}"]) == 0
    runs = {"ancestor": [], "checkpoint": [teacher(parent)], "hugging_face": [teacher(tmp_path / "hf")]}
    runs["another"] = [teacher(setting / "parent" / "checkpoints" / "1")]
    pairs = "--config.stages[0].objective.hidden_layers=((0, 2),)"  # what the ancestor's lineage says
    digests = {}
    for name, overrides in runs.items():
        assert distil(setting, tmp_path / name, *short, pairs, *overrides) == 0
        digests[name] = read_run(tmp_path / name, 3)["digests"]
    assert digests["ancestor"] == digests["checkpoint"] == digests["hugging_face"]
    assert digests["another"] != digests["ancestor"]  # the proof above can fail


def refused(setting, workdir, capsys, *overrides):
    capsys.readouterr()
    assert distil(setting, workdir, *overrides) == 1
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_an_ancestor_that_is_gone_or_changed_or_never_was_is_named(setting, tmp_path, capsys):
    parent = setting / "parent"
    parent.rename(setting / "moved")
    try:
        said = refused(setting, tmp_path / "a", capsys)
        assert "stages[0].objective: teacher: " in said
        assert "it is what this run's model was reshaped from; put it back where it was, or give its path" in said
        shutil.copytree(setting / "moved", parent)
        shutil.rmtree(parent / "checkpoints" / "3")
        shutil.copytree(setting / "run", tmp_path / "other")
        changed = {"path": str(setting / "moved" / "checkpoints" / "2"), "digest": "0" * 64}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("jaxpt.commands.train.ancestor", lambda lineage: {"": changed})
            assert "checkpoints/2 holds another model now" in refused(setting, tmp_path / "b", capsys)
    finally:
        shutil.rmtree(parent, ignore_errors=True)
        (setting / "moved").rename(parent)
    assert frozen.ancestor([{"op": "import"}]) == {}
    said = refused(setting, tmp_path / "c", capsys, f"--config.init_from={parent}")
    assert "this run's model was not reshaped from another; give teacher=MODEL" in said
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_a_teacher_with_another_tokenizer_is_refused(setting, shared, tmp_path):
    from jaxpt.bundles import save_bundle

    bundle = save_bundle(stories(shared), tmp_path / "stories")
    config = load_config(RunConfig, named(setting).removeprefix("--config="), [teacher(bundle)])
    other: Tokenizer = SimpleNamespace(fingerprint="f" * 64)
    with pytest.raises(JaxptError, match=r"teacher: .*stories has tokenizer .*, this run's is ffffffffffff; the same"):
        pin_frozen(config.stages, None, tokenizer=other)
    assert pin_frozen(config.stages, None, tokenizer=stories(shared).tokenizer)[str(bundle)]["digest"]
