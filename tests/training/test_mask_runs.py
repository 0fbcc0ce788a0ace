"""Mask training by command: resumed bit for bit, evaluated under final masks, cut, and its rows never used again."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.made_sources import make_sources
from jaxpt import cli
from jaxpt.api import load
from jaxpt.bundles import open_bundle
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.commands.reshape import reshape
from jaxpt.config.file import load as load_config
from jaxpt.data import PackedSource
from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models import forward
from jaxpt.models.masks import with_mask
from jaxpt.objectives.objective import Progress
from jaxpt.objectives.shear import MaskTraining
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.reporting.report import write_report
from jaxpt.reshape.config import ReshapeConfig
from jaxpt.reshape.target import Target, lengths_of
from jaxpt.training.arguments import step_arguments
from jaxpt.training.extra import begin, make_extra
from jaxpt.training.learned_masks import learned_masks
from jaxpt.training.metrics import read
from tests.training import tiny

CONFIG = """
TARGET = dict(embed=12, layers=3, heads=2, mlp=20)


def get_config(place):
    folder, kind = place.split("+")
    stage = dict(batch_size=8, sequence_length=16, mixture=dict(a=0.5, b=0.5), schedule=dict(name="constant"))
    stage |= dict(duration="6 steps", microbatches=2)
    model = dict(vocab_size=512, embed=16, heads=4, kv_heads=2, head_dim=8, mlp=32, layers=4, tie_embeddings=True)
    c = dict(
        model=model,
        sources={n: dict(path=folder + "/" + n) for n in "ab"},
        stages=[stage],
        optimizer=dict(learning_rate=1e-3),
        checkpoint=dict(every="1 steps", keep=9),
        metrics=dict(every=1, tensorboard=False),
        sharding=dict(mesh=dict(fsdp=4, tensor=2)),
        evaluations=dict(masks=dict(name="tests.training.mask_seen:MaskSeen", every="3 steps")),
    )
    if kind == "masks":
        stage["objective"] = dict(name="shear", target=TARGET, warmup=0.5)
    if kind == "frozen":
        gate, alpha = dict(name="relu", std=0.1), dict(start=0.5)
        stage["objective"] = dict(name="shear", target=TARGET, gate=gate, alpha=alpha)
        stage |= dict(freeze=("*",), duration="2 steps")
    if kind.startswith("from:"):
        c |= dict(model={}, init_from=kind[5:])
        stage |= dict(duration="2 steps", microbatches=1)
    return c
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A folder with sources, a finished run of mask training, and the bundle that was cut from it."""
    folder = tmp_path_factory.mktemp("masks")
    make_sources(folder / "sources", rows=60, length=16)
    (folder / "config.py").write_text(CONFIG)
    assert train(folder, "masks", folder / "run") == 0
    with pytest.MonkeyPatch.context() as patch:  # made rows have no tokenizer, which the command would compare
        rows = [PackedSource.open(folder / "sources" / "c").read(range(4))]
        patch.setattr("jaxpt.commands.reshape.read_rows", lambda key, *_: (rows if key == "held_out" else [], None))
        assert finalise(folder / "run", folder / "small") == 0
    return folder


@pytest.fixture(scope="module")
def continued(setting):
    """A run that began with the bundle."""
    assert train(setting, f"from:{setting / 'small'}", setting / "continued") == 0
    return setting / "continued"


def train(folder, kind, workdir, *overrides):
    return cli.main(
        ["train", f"--config={folder / 'config.py'}:{folder / 'sources'}+{kind}", f"--workdir={workdir}", *overrides]
    )


def finalise(source, to, *overrides):
    config = "--config=configs/reshape/shear.py:finalise"
    return cli.main(["reshape", config, f"--from={source}", f"--to={to}", *overrides])


def values(workdir, prefix):
    """What was logged under names with a prefix, step by step."""
    out = {}
    for record in read(workdir / "metrics.jsonl"):
        own = {k: v for k, v in record.items() if k.startswith(prefix)}
        out.setdefault(record["step"], {}).update(own)
    return {step: own for step, own in out.items() if own}


@pytest.mark.parametrize("step", [1, 4])
def test_a_resume_is_bit_for_bit_the_run_that_was_not_stopped(setting, tmp_path, step):
    shutil.copytree(setting / "run", tmp_path / "run")
    for later in finished_steps(tmp_path / "run"):
        if later > step:
            shutil.rmtree(tmp_path / "run" / "checkpoints" / str(later))
    assert train(setting, "masks", tmp_path / "run") == 0
    now, then = read_run(tmp_path / "run", 6), read_run(setting / "run", 6)
    assert "extra/values/gates/mlp" in then["digests"]
    assert "extra/opt_state/multipliers/mu/multipliers/mlp" in then["digests"]
    assert now["digests"] == then["digests"]
    assert values(tmp_path / "run", "train/") == values(setting / "run", "train/")


def test_what_a_person_watches_is_logged(setting):
    records = values(setting / "run", "train/")
    assert records[1]["train/sparsity_target/mlp"] == 0
    assert records[6]["train/sparsity_target/mlp"] == pytest.approx(0.375)
    for axis in ("embed", "layers", "heads", "mlp"):
        assert {f"train/sparsity/{axis}", f"train/multiplier/{axis}/linear"} <= records[6].keys()
    assert records[6]["train/multiplier/mlp/linear"] < 0  # as there is too little sparsity: more of it lowers the loss
    live = MaskTraining(target=Target(mlp=20)).live({**records[6], **values(setting / "run", "data/wanted/")[6]})
    pair = [records[6][f"train/multiplier/mlp/{power}"] for power in ("linear", "quadratic")]
    assert live["mlp"] == f"{records[6]['train/sparsity/mlp']:.0%}/38% λ {pair[0]:+.2g} {pair[1]:+.2g}"
    assert live["mixture"] == "a 50% b 50%"


def test_evaluations_see_final_masks_of_the_exact_target(setting):
    seen = values(setting / "run", "eval/masks/")
    assert seen[0].keys() == {"eval/masks/loss"}  # before the first step there are no gates
    for step in (3, 6):
        counts = {k.removeprefix("eval/masks/"): v for k, v in seen[step].items() if not k.endswith("loss")}
        assert counts == {"embed": 12, "layers": 3, "heads": 4 * 2, "mlp": 4 * 20}
    model, small = load(setting / "run"), open_bundle(setting / "small")
    tokens = jnp.arange(32).reshape(2, 16) % 512
    logits = forward(small.config, small.params(), tokens)
    loss = float(jnp.mean(from_logits(logits, jnp.roll(tokens, -1, 1))[0]))
    assert loss == pytest.approx(seen[6]["eval/masks/loss"], rel=1e-5)  # what was measured is what the cut model has
    whole = jnp.mean(from_logits(forward(model.config, model.params, tokens), jnp.roll(tokens, -1, 1))[0])
    assert abs(float(whole) - loss) > 1e-4


def test_the_cut_model_has_the_target_and_computes_what_the_finalised_one_does(setting):
    model, small = load(setting / "run"), open_bundle(setting / "small")
    assert lengths_of(small.config) == {
        **lengths_of(model.config), "embed": 12, "layers": 3, "heads": 2, "mlp": 20
    }  # fmt: skip
    masks = learned_masks(setting / "run", 6)
    tokens = np.random.default_rng(0).integers(0, 512, (2, 16))
    masked, cut = (
        np.asarray(forward(c, p, tokens))
        for c, p in ((model.config, with_mask(model.params, masks.final)), (small.config, small.params()))
    )
    np.testing.assert_allclose(cut, masked, rtol=1e-4, atol=1e-4 * np.abs(masked).max())
    soft = np.asarray(forward(model.config, with_mask(model.params, masks.soft), tokens))
    assert np.abs(soft - masked).max() > 1e-4


def test_the_lineage_holds_what_the_masks_cost_and_later_runs_leave_their_rows_out(setting, continued):
    lineage = open_bundle(setting / "small").lineage
    run = next(entry for entry in lineage if entry["op"] == "train")
    saved = read_run(setting / "run", 6)
    assert run["tokens"] == 6 * 8 * 16
    assert run["flops"] == pytest.approx(saved["flops"])
    assert run["ledger"] == saved["ledger"]
    cut = lineage[-1]
    assert cut["op"] == "shear"
    assert cut["masks"]["trained"] == 1
    assert cut["masks"]["final"] == pytest.approx(cut["step_zero"]["loss_after"], abs=1e-4)
    assert cut["masks"]["soft"] != pytest.approx(cut["masks"]["final"], abs=1e-6)
    used, after = (
        {(e["name"], e["epoch"], row) for e in of["ledger"] for row in range(e["start"], e["stop"])}
        for of in (saved, read_run(continued, 2))
    )
    assert len(used) == 6 * 8
    assert after > used
    assert len(after) == len(used) + 2 * 8  # none of them again


@pytest.mark.slow
def test_frozen_weights_stay_and_relu_gates_are_distilled_from_the_parent_and_folded(
    setting, continued, tmp_path, capsys
):
    text = (setting / "config.py").read_text().replace("embed=12, layers=3, heads=2, mlp=20", "mlp=15, layers=2")
    text = text.replace("model=model,", f"init_from={str(continued)!r},")
    (tmp_path / "config.py").write_text(text)
    (tmp_path / "sources").symlink_to(setting / "sources")
    capsys.readouterr()
    assert train(tmp_path, "frozen", tmp_path / "run") == 0
    assert "its weights are those that are trained, held once" in capsys.readouterr().out
    saved = read_run(tmp_path / "run", 2)
    assert saved["frozen"]["config.init_from"]["path"] == str(continued / "checkpoints" / "2")
    before, after = load(continued).params, load(tmp_path / "run").params
    jax.tree.map(np.testing.assert_array_equal, before, after)
    records = values(tmp_path / "run", "train/")
    assert np.isfinite(records[1]["train/divergence"])
    assert "train/binary_penalty" in records[2]
    assert finalise(tmp_path / "run", tmp_path / "small") == 0
    assert [e["op"] for e in open_bundle(tmp_path / "small").lineage[-2:]] == ["fold_masks", "shear"]
    masks, model = learned_masks(tmp_path / "run", 2), load(tmp_path / "run")
    assert not np.isin(masks.final["mlp"], (0, 1)).all()
    tokens, small = np.arange(32).reshape(2, 16), open_bundle(tmp_path / "small")
    masked = np.asarray(forward(model.config, with_mask(model.params, masks.final), tokens))
    cut = np.asarray(forward(small.config, small.params(), tokens))
    np.testing.assert_allclose(cut, masked, rtol=1e-4, atol=1e-4 * np.abs(masked).max())


def test_the_report_has_pictures_of_the_masks(setting, tmp_path):
    shutil.copytree(setting / "run", tmp_path / "run")
    page = write_report(tmp_path / "run").read_text()
    for name in ("sparsity", "masks_heads", "masks_mlp", "masks_embed", "masks_layers"):
        assert f'alt="{name}"' in page
    assert "Masks: expected sparsity" in page


def test_what_has_no_masks_cannot_be_finalised(setting, continued):
    with pytest.raises(JaxptError, match=r"shear: .* has no masks; give --from=RUN"):
        reshape(load_config(ReshapeConfig, "configs/reshape/shear.py:finalise", []), str(setting / "small"), "out")
    with pytest.raises(JaxptError, match="holds no masks: its stage stage0 has the objective next_token"):
        learned_masks(continued, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "microbatches"), [({"fsdp": 2, "tensor": 2}, 1), ({"fsdp": 1}, 4)])
def test_devices_and_microbatches_take_the_steps_of_one(mesh, microbatches):
    damped = AdamW(learning_rate=0.5, eps=1e-2, weight_decay=0.0)  # else rounding decides the sign of tiny gradients
    target = Target(embed=8, layers=1, kv_heads=1, mlp=12)
    objective = MaskTraining(target=target, warmup=0.0, gates=damped)

    def end(mesh, microbatches):
        layout, state, step, put = tiny.parts(mesh, microbatches=microbatches, objective=objective)
        extra, _ = begin({}, make_extra(objective, tiny.MODEL), layout, 0, fresh=False)
        state = state._replace(extra=extra)
        with jax.set_mesh(layout.mesh):
            for i in range(3):
                state, metrics = step(
                    state, put(tiny.batch(i)), step_arguments(objective, Progress(i, 3, 128), 1e-2, 1e-2)
                )
        return jax.device_get((state.params, state.extra["values"], metrics["train/loss"]))

    one, other = end({"fsdp": 1}, 1), end(mesh, microbatches)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), one, other)
