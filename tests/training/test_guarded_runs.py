"""Guards, means and norms in a run: kept in checkpoints, gone on with to the bit, taken up by runs of yesterday."""

import json

import jax
import numpy as np
import pytest

import jaxpt
from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.errors import JaxptError
from jaxpt.models.specs import flatten
from jaxpt.training.events import Changes, Due, Event
from jaxpt.training.metrics import read
from tests.training import spiky

ALL = {
    "guard": {"name": "skip", "window": 8},
    "averaging": {"name": "ema", "decay": 0.9},
    "clipping": {"name": "zclip", "warmup": 4},
    "metrics": {"every": 1, "tensorboard": False, "watch": 5},
}


class StopAt(Event):
    """Stops the run once, as a signal would."""

    def __init__(self, step):
        self.step = step

    def is_due(self, view):
        return view.step == self.step

    def act(self, view):
        return Changes(stop="a test")


class MeanAtFirst(Event):
    """Compares the mean with the parameters at the run's beginning."""

    due = Due(first=True)

    def act(self, view):
        for a, b in zip(jax.tree.leaves(view.mean), jax.tree.leaves(view.params), strict=True):
            assert np.array_equal(a, b)
            assert a.sharding == b.sharding
        return Changes({"mean/seen": 1.0})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one piece, with a spike and a NaN."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert spiky.run(workdir, spikes=[20], nans=[17], events=[MeanAtFirst()], **ALL) == 0
    return workdir


def records(workdir):
    return {r["step"]: r for r in read(workdir / "metrics.jsonl") if "train/grad_norm" in r}


def test_a_run_that_is_stopped_within_its_window_goes_on_to_the_same_bits(whole, tmp_path):
    for step in (13, 18, 22):
        assert spiky.run(tmp_path, spikes=[20], nans=[17], events=[StopAt(step)], **ALL) == 75
    assert spiky.run(tmp_path, spikes=[20], nans=[17], **ALL) == 0
    one, other = spiky.end(whole), spiky.end(tmp_path)
    assert one["digests"] == other["digests"]
    assert {"@guard/guard/values", "@guard/clipping/mean", "@mean/embed/table"} < one["digests"].keys()
    assert one["trained_tokens"] == other["trained_tokens"] == (30 - 2) * 128
    assert one["tokens"] == 30 * 128
    for step, record in records(whole).items():
        assert repr(record["train/loss"]) == repr(records(tmp_path)[step]["train/loss"]), step


def test_the_mean_begins_as_the_parameters(whole):
    assert any("mean/seen" in r for r in read(whole / "metrics.jsonl"))


def test_skipped_steps_are_counted_in_the_metrics(whole):
    of = records(whole)
    assert [of[step]["guard/skipped"] for step in (17, 18, 20, 21, 30)] == [0, 1, 1, 2, 2]
    assert np.isnan(of[18]["train/loss"])
    assert of[30]["guard/not_finite"] == 1
    assert of[30]["guard/spike_score"] == pytest.approx(2 / 30)
    assert "trained_tokens" not in of[17]
    assert of[30]["trained_tokens"] == 28 * 128
    for line in (whole / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_norms_of_axis_groups_are_logged_every_so_many_steps_and_are_those_of_the_parameters(whole):
    watched = {r["step"]: r for r in read(whole / "metrics.jsonl") if any(k.startswith("watch/") for k in r)}
    assert sorted(watched) == [5, 10, 15, 20, 25, 30]
    params = flatten(jaxpt.load(whole).params)
    last = watched[30]
    for group, paths in {
        "vocab.embed": ["embed/table"],
        "embed.mlp": ["blocks/dense/gate", "blocks/dense/up"],
        "heads.head_dim.embed": ["blocks/dense/o"],
    }.items():
        norm = np.sqrt(sum(np.square(np.asarray(params[p], np.float64)).sum() for p in paths))
        assert last[f"watch/params/{group}"] == pytest.approx(norm, rel=1e-5)
    total = np.sqrt(sum(v**2 for k, v in last.items() if k.startswith("watch/params/")))
    assert total == pytest.approx(records(whole)[30]["train/param_norm"], rel=1e-5)
    assert 0 < last["watch/updates/embed.mlp"] < last["watch/params/embed.mlp"]


def test_the_mean_is_measured_loaded_and_is_not_the_parameters(whole, tmp_path):
    params, mean = jaxpt.load(whole), jaxpt.load(whole, mean=True)
    assert mean.lineage[-1]["options"]["of"] == "mean"
    a, b = flatten(params.params), flatten(mean.params)
    assert a.keys() == b.keys()
    assert not np.array_equal(a["embed/table"], b["embed/table"])
    jaxpt.save(mean, tmp_path / "bundle")
    again = flatten(jaxpt.load(tmp_path / "bundle").params)
    assert all(np.array_equal(again[p], b[p]) for p in b)
    with pytest.raises(JaxptError, match="only runs keep a mean"):
        jaxpt.load(tmp_path / "bundle", mean=True)


def test_a_checkpoint_of_yesterday_is_gone_on_with_and_a_guard_can_be_taken_away(tmp_path):
    lines = []
    plain = {"metrics": ALL["metrics"] | {"watch": None}}
    assert spiky.run(tmp_path, events=[StopAt(10)], **plain) == 75
    before = spiky.end(tmp_path)
    assert not any("@" in path for path in before["digests"])
    assert spiky.run(tmp_path, spikes=[25], events=[StopAt(28)], log=lines.append, **ALL) == 75
    assert records(tmp_path)[28]["guard/skipped"] == 1
    with_mean = spiky.end(tmp_path)
    assert len(with_mean["digests"]) > len(before["digests"])
    assert "resumed at step 10 of 30" in lines
    lines.clear()
    assert spiky.run(tmp_path, log=lines.append, **plain) == 0
    assert "resumed at step 28 of 30" in lines
    assert any("mean of the parameters is not kept" in line for line in lines)
    assert spiky.end(tmp_path)["digests"].keys() == before["digests"].keys()
    with pytest.raises(JaxptError, match="has no mean of the parameters; a run keeps one with"):
        jaxpt.load(tmp_path, mean=True)


def test_what_is_never_finite_stops_the_run_after_so_many_steps(tmp_path):
    guard = {"guard": {"name": "finite", "patience": 4}, "metrics": {"every": 2, "tensorboard": False}}
    with pytest.raises(
        JaxptError, match=r"the last 4 steps, up to step 16, were not finite .*finite checkpoint is 15: start"
    ):
        spiky.run(tmp_path, nans=range(12, 30), **guard)
    assert finished_steps(tmp_path)[-1] == 15  # of finite values


def test_without_a_guard_one_weight_ends_the_run(tmp_path):
    with pytest.raises(JaxptError, match="at step 13 is nan; the newest finite checkpoint is 10"):
        spiky.run(tmp_path, nans=[12], metrics={"every": 1, "tensorboard": False})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guard": {"name": "skp"}}, r"config.guard.name is 'skp', which is not a guard \(did you mean 'skip'\?\)"),
        (
            {"guard": {"name": "none", "window": 8}},
            r"config.guard.window is not a key.*finite, observe and skip have it",
        ),
        ({"averaging": {"name": "ema", "decay": 1.0}}, r"config.averaging.decay is 1.0, it must be between 0 and 1"),
        ({"clipping": {"name": "value", "largest": -1.0}}, r"config.clipping.largest is -1.0, it must be above 0"),
        ({"clipping": {"name": "adagc", "times": 0.5}}, r"config.clipping.times is 0.5, it must be at least 1"),
        ({"metrics": {"watch": 0}}, r"config.metrics.watch is 0, it must be at least 1"),
    ],
)
def test_a_bad_setting_is_one_line_before_the_first_step(changes, message):
    with pytest.raises(JaxptError, match=message):
        spiky.config_of(**changes)
