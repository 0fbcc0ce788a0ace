"""`jaxpt reshape`: real model and text through the command, equal to the library, refusals, nothing half-written."""

import json

import jax
import numpy as np
import pytest

from jaxpt.api import load
from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.cli import main
from jaxpt.commands import reshape as reshape_command
from jaxpt.data import PackedSource
from jaxpt.data.build import Packing, build
from jaxpt.errors import JaxptError
from jaxpt.interop import import_bundle
from jaxpt.models import Model, flatten, unflatten
from jaxpt.models.size import param_count
from jaxpt.reshape import Scores, apply, subclone_rewrite, weight_scores
from jaxpt.reshape.depth import drop_and_rescale, drop_layers
from jaxpt.reshape.rewrite import Rewrite, identity_rules
from jaxpt.reshape.step_zero import StepZero, report
from jaxpt.reshape.stream import InMemory
from tests.interop.made import hf_directory
from tests.models.tiny import config as tiny_config
from tests.reshape.stories import TEXT, stories
from tests.training.run_made import CONFIG, start

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
    rewrite = subclone_rewrite(big.config, {"mlp": 100}, weight_scores(InMemory(big.config, big.params())))
    jax.tree.map(np.testing.assert_array_equal, small.params(), apply(rewrite, big.params()))
    small.verify()
    assert small.tokenizer_fingerprint == big.tokenizer_fingerprint
    entry = small.lineage[-1]
    assert (entry["op"], entry["tokens"], entry["parameters"]) == ("subclone", 0, param_count(small.config))


def test_a_target_of_the_source_s_own_lengths_cuts_nothing_and_says_so(bundle, tmp_path, capsys):
    assert run(f"--config={SUBCLONE}", f"--from={bundle}", f"--to={tmp_path / 'same'}") == 0
    assert "nothing is cut" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, open_bundle(tmp_path / "same").params(), open_bundle(bundle).params())


def test_scores_from_data_are_kept_drawn_and_reused_for_another_shape(bundle, packed, tmp_path, capsys):
    kept, source = tmp_path / "scores.npz", f"{{'text': '{packed}'}}"
    common = [f"--from={bundle}", f"--config.scores={kept}"]
    first = [f"--config={SUBCLONE}:compensated", f"--to={tmp_path / 'a'}", f"--config.calibration.sources={source}"]
    first += ["--config.calibration.batches=2", "--config.target.mlp=100", "--config.target.embed=48"]
    assert run(*common, *first, f"--pictures={tmp_path / 'pictures'}") == 0
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir())[:2] == ["embed.png", "heads.png"]
    entry = open_bundle(tmp_path / "a").lineage[-1]
    assert entry["tokens"] == 2 * 8 * 64  # scores and second moments come from one pass
    assert entry["scores"]["data"]["sources"]["text"] == PackedSource.open(packed).fingerprint
    assert Scores.load(kept).meta["tokens"] == 2 * 8 * 64
    capsys.readouterr()
    assert run(*common, f"--config={SUBCLONE}", f"--to={tmp_path / 'b'}", "--config.target.layers=3") == 0
    assert "scores from" in capsys.readouterr().out
    assert len(open_bundle(tmp_path / "b").config.layers) == 3
    again = [*common, *first[:1], *first[2:], f"--to={tmp_path / 'c'}"]
    assert run(*again) == 0
    assert (
        open_bundle(tmp_path / "c").lineage[-1]["tokens"] == 2 * 2 * 8 * 64
    )  # stored scores, moments in a second pass
    jax.tree.map(np.testing.assert_array_equal, *(open_bundle(tmp_path / n).params() for n in "ac"))


def test_stored_scores_of_other_data_or_weights_are_refused_not_used(bundle, packed, tmp_path, capsys):
    kept, to = tmp_path / "scores.npz", f"--to={tmp_path / 'x'}"
    common = [f"--config={SUBCLONE}", f"--config.scores={kept}", "--config.target.mlp=100"]
    data = f"--config.calibration.sources={{'text': '{packed}'}}"
    assert run(*common, f"--from={bundle}", f"--to={tmp_path / 'a'}", data, "--config.calibration.batches=1") == 0
    twice = {k: v * 2 for k, v in flatten(open_bundle(bundle).params()).items()}
    source = open_bundle(bundle)
    other = save_bundle(Model(source.config, unflatten(twice), source.tokenizer()), tmp_path / "twice")
    one = [data, "--config.calibration.batches=1"]
    for model, extra, said in (
        (other, one, "other weights than those of the model"),
        (bundle, [data, "--config.calibration.batches=2"], "config.calibration asks for"),
        (bundle, [*one, "--config.calibration.over_batch=mean"], "config.calibration.over_batch asks for mean"),
        (bundle, [*one, "--config.calibration.removal=True"], "lacks the loss change on removal"),
        (bundle, ["--config.transforms[0].selection=uniform"], "of no use to subclone"),
    ):
        capsys.readouterr()
        assert run(*common, f"--from={model}", to, *extra) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


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
    ("config", "extra", "same"),
    [
        ("grow_width", ["--config.target.mlp=200", "--config.target.embed=70", "--config.target.heads=12"], True),
        ("grow_width:noise", ["--config.target.mlp=200"], True),
        ("grow_width:aki", ["--config.target.mlp=200"], False),
        ("grow_depth", ["--config.target.layers=7"], True),
        ("grow_depth:stack", ["--config.target.layers=7"], False),
        ("upcycle:copies", ["--config.transforms[0].dense_first=1"], True),
        ("upcycle:fine", ["--config.transforms[0].every=2"], True),
        ("upcycle", [], False),
        ("upcycle:published", [], False),
    ],
)
def test_growth_and_upcycling_say_whether_the_function_is_kept_and_measure_it(
    bundle, packed, tmp_path, capsys, config, extra, same
):
    name, _, variant = config.partition(":")
    held = f"--config.held_out.sources={{'text': '{packed}'}}"
    common = [f"--config=configs/reshape/{name}.py:{variant}".rstrip(":"), f"--from={bundle}", f"--to={tmp_path / 'g'}"]
    assert run(*common, *extra, held, "--config.held_out.batches=1") == 0
    out = capsys.readouterr().out
    step = open_bundle(tmp_path / "g").lineage[-1]["step_zero"]
    assert step["exact"] == same
    assert step["tokens"] == 8 * 64
    change = abs(step["loss_after"] - step["loss_before"])
    assert change < 1e-4 if same else change > 1e-2
    assert f"step 0: loss {step['loss_before']:.5f} -> {step['loss_after']:.5f}" in out
    assert " claim " not in out
    open_bundle(tmp_path / "g").verify()


def test_a_claim_that_the_measurement_contradicts_is_reported():
    rewrite = Rewrite(*[(c := tiny_config())] * 2, identity_rules(c), {"op": "pad", "exact": True, "why": "nothing"})
    said = report([rewrite], StepZero(True, ("nothing",), 2.0, 2.5, 64, 1e-4))
    assert "claim the same function, but the loss moved by more than 0.0001" in said
    assert "was not measured" in report([rewrite], StepZero(True, ("nothing",)))


def test_the_source_may_be_a_hugging_face_directory(shared, bundle, tmp_path):
    folder = shared / "data" / "stories260K" / "hf"
    assert run(f"--config={SUBCLONE}", f"--from={folder}", f"--to={tmp_path / 'a'}", "--config.target.mlp=100") == 0
    assert run(f"--config={SUBCLONE}", f"--from={bundle}", f"--to={tmp_path / 'b'}", "--config.target.mlp=100") == 0
    made = open_bundle(tmp_path / "a")
    jax.tree.map(np.testing.assert_array_equal, made.params(), open_bundle(tmp_path / "b").params())
    assert [e["op"] for e in made.lineage] == ["import", "subclone"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--config.target.mlp=4000"], "target.mlp is 4000, larger than the source's 172"),
        (["--config.target.mpl=40"], "did you mean 'mlp'"),
        (
            ["--config.target.activation=gelu"],
            "activation is not a key: a transform to a target keeps the kind of every",
        ),
        (["--config.transforms[0].scaling=fanin"], "did you mean 'fan_in'"),
        (["--config.calibration.sources={'a': 'nowhere'}"], "nowhere is not a packed source"),
        (["--config.transforms[0].compensate=True", "--config.target.mlp=90"], "needs calibration data"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(bundle, tmp_path, capsys, extra, said):
    assert run(f"--config={SUBCLONE}", f"--from={bundle}", f"--to={tmp_path / 'x'}", *extra) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert said in error[0]
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_variant_is_told_with_its_neighbour(bundle, tmp_path, capsys):
    assert run(f"--config={SUBCLONE}:compensate", f"--from={bundle}", f"--to={tmp_path / 'x'}") == 1
    said = capsys.readouterr().err.strip()
    assert "has no variant 'compensate' (did you mean 'compensated'?); there are importance, scaled" in said
    assert "\n" not in said


def test_the_source_may_be_a_run_or_one_of_its_checkpoints(tmp_path):
    start(tmp_path / "run", log=lambda line: None, stages=[CONFIG["stages"][0]])
    for path, step in ((tmp_path / "run", 20), (tmp_path / "run" / "checkpoints" / "15", 15)):
        out = tmp_path / f"out{step}"
        config = "--config=configs/reshape/grow_depth.py"
        assert run(config, f"--from={path}", f"--to={out}", "--config.target.layers=3") == 0
        made, model = open_bundle(out), load(path)
        assert [(e["op"], e.get("steps")) for e in made.lineage] == [("train", step), ("llama_pro", None)]
        old, new = flatten(model.params), flatten(made.params())
        np.testing.assert_array_equal(new["blocks/dense/q"], np.asarray(old["blocks/dense/q"])[[0, 1, 1]])


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A tiny Llama, Gemma 2, Qwen 2 and OLMo 2 as bundles that were imported."""
    folder = tmp_path_factory.mktemp("imported")
    out = {}
    for name, kind, changes in (
        ("llama", "llama", {}),
        ("gemma2", "gemma2", {"attention_scale": 0.25}),
        ("qwen2", "qwen2", {}),
        ("olmo2", "olmo2", {"norm_cast_order": "gain_before_cast"}),
    ):
        (folder / name).mkdir()
        out[name] = import_bundle(hf_directory(folder / name, name, kind, **changes), folder / name / "bundle")
    return out


@pytest.mark.parametrize(
    ("name", "config", "key", "said"),
    [
        (
            "llama", "subclone.py", "target.embed=20",
            "export: the result can be held by mistral\n  not llama (its own): hidden_size=20 must be a multiple of "
            "num_attention_heads=6; make target.embed 18 or 24, or target.heads a divisor of 20\n",
        ),
        ("llama", "subclone.py", "target.embed=18", "export: the result can be held by llama (its own), mistral\n"),
        ("gemma2", "grow_width.py", "target.embed=30", "gemma2 (its own) (embed_scale=4.898979485566356 (now 5.477"),
        ("olmo2", "grow_width.py", "target.embed=30", "export: the result can be held by olmo2 (its own) (qk_norm_eps"),
        ("olmo2", "upcycle.py", "seed=1", "no family can hold the result; only jaxpt will read it\n  olmo2 (its own)"),
        ("qwen2", "upcycle.py", "seed=1", "held by qwen2_moe (moe.shared_mlp=0 (now 64) into weights of zero"),
        ("llama", "grow_width.py", "target.head_dim=10", "make target.head_dim a divisor or a multiple of the so"),
    ],
)  # fmt: skip
def test_which_families_hold_the_result_is_said_before_anything_is_scored(
    imported, tmp_path, capsys, monkeypatch, name, config, key, said
):
    def stop(*args):
        raise JaxptError("what comes after is of no interest")

    monkeypatch.setattr(reshape_command, "rewrites_of", stop)  # scores, and all that takes time
    assert run(
        f"--config=configs/reshape/{config}", f"--from={imported[name]}", f"--to={tmp_path}/x", f"--config.{key}"
    )
    assert said in capsys.readouterr().out


def test_a_family_that_is_wanted_and_cannot_hold_the_result_stops_the_command(imported, tmp_path, capsys):
    common = (f"--config={SUBCLONE}", f"--from={imported['llama']}", f"--to={tmp_path}/x", "--config.target.embed=20")
    assert run(*common, "--family=llama") == 1
    assert "the family llama cannot hold the model: hidden_size=20 must be" in capsys.readouterr().err
    assert run(*common, "--family=lama") == 1
    assert "did you mean 'llama'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(*common, "--family=mistral") == 0
    assert main(["export", f"--from={tmp_path}/x", f"--to={tmp_path}/hf"]) == 0
    out = capsys.readouterr().out
    assert "  not llama (its own): hidden_size=20" in out
    assert f"{tmp_path}/hf (mistral)\n" in out


def test_the_table_says_which_layers_went_and_what_makes_up_for_a_cut():
    c = tiny_config(layers=tiny_config().layers * 3)
    cut = subclone_rewrite(c, {"layers": 6}, selection="uniform", depth="middle", scaling="writers")
    fitted = cut.with_entry(compensation=["heads", "mlp"])
    dropped = drop_and_rescale(c, [2, 3, 7], [1.5, 1.0, 2.0])
    said = report([cut, fitted, dropped, drop_layers(c, [0])], StepZero(False, ("",) * 4))
    assert "subclone: layers 3-5 of 0-8 are left out" in said
    assert "subclone: compensated: matrices scaled for the inputs they lost (writers)" in said
    assert "compensated: o (heads left out) and down (neurons left out) refitted by least squares" in said
    assert "drop_and_rescale: layers 2-3, 7 of 0-8 are left out" in said
    assert "drop_and_rescale: compensated: what writes to the stream before them is multiplied by 3" in said
    assert "drop_layers: layers 0 of 0-8 are left out" in said
    assert "are left out" not in report([subclone_rewrite(c, {"mlp": 20}, selection="uniform")], StepZero(False, ("",)))
