"""Merging: the mean against float64, the weights that stand for a decay, and what a merged model has seen."""

import tracemalloc

import jax
import numpy as np
import pytest

from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.checkpoints.checkpoints import read_params, read_run
from jaxpt.checkpoints.slices import CheckpointSlices
from jaxpt.commands import merge
from jaxpt.data.ledger import Ledger, Used
from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig, flatten, init_params, param_specs, uniform_layers
from jaxpt.models.model import Model
from jaxpt.optim.schedule import resolve
from jaxpt.optim.schedules.wsd import Wsd
from jaxpt.reshape.stream import InMemory, gather, slices
from jaxpt.training import run_directory
from jaxpt.training.merging import Merged, check_weights, decay_weights, seen_rows
from tests.training import saved
from tests.training.tiny import MODEL


def models(count, config=MODEL):
    return [jax.tree.map(np.asarray, init_params(config, seed)) for seed in range(count)]


def exact(params, weights):
    """The weighted mean in float64, and the bound on how far float32 may be from it."""
    flat = [flatten(p) for p in params]
    mean, bound = {}, {}
    for path in flat[0]:
        parts = [w * f[path].astype(np.float64) for w, f in zip(weights, flat)]
        mean[path] = sum(parts)
        bound[path] = (len(parts) + 1) * 2.0**-23 * sum(np.abs(part) for part in parts)
    return mean, bound


@pytest.mark.parametrize("weights", [[0.25] * 4, [0.1, 0.2, 0.3, 0.4], [1e-6, 0.0, 1 - 2e-6, 1e-6], [1.0, 0, 0, 0]])
def test_a_merge_is_the_float64_mean_within_the_bound_that_is_stated(weights):
    params = models(4)
    got = flatten(gather(Merged([InMemory(MODEL, p) for p in params], weights, "abcd", "float32")))
    mean, bound = exact(params, weights)
    for path, value in got.items():
        assert value.dtype == np.float32
        assert np.all(np.abs(value - mean[path]) <= bound[path]), path
    if 1.0 in weights:
        assert all(np.array_equal(got[path], leaf) for path, leaf in flatten(params[0]).items())


def test_a_sum_in_bfloat16_would_be_outside_the_bound():  # the proof above can fail
    params, weights = models(4), [0.25] * 4
    mean, bound = exact(params, weights)
    path = "embed/table"
    rounded = sum(np.asarray(jax.numpy.asarray(flatten(p)[path] * 0.25, "bfloat16"), np.float32) for p in params)
    assert not np.all(np.abs(rounded - mean[path]) <= bound[path])


def test_the_weights_of_a_decay_give_each_update_the_decays_value():
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(8, 5))  # of eight intervals at a constant rate
    thetas = np.cumsum(np.concatenate([rng.normal(size=(1, 5)), updates]), axis=0)
    for shape, end in (("linear", 0.0), ("linear", 0.3), ("sqrt", 0.0), ("cosine", 0.1), ("exponential", 0.01)):
        curve = resolve(Wsd(decay="100%", decay_shape=shape, end=end), 9, 1)
        multiples = [curve.multiple(i) for i in range(1, 9)]  # a decay over nine intervals, the first at the peak
        decayed = thetas[0] + sum(m * u for m, u in zip(multiples, updates))
        weights = decay_weights(shape, end, range(100, 1000, 100))
        np.testing.assert_allclose(np.array(weights) @ thetas, decayed, rtol=1e-12)
        assert min(weights) >= 0
        assert sum(weights) == pytest.approx(1)


def test_a_linear_decay_to_nothing_is_the_plain_mean_and_uneven_steps_count_by_their_length():
    assert decay_weights("linear", 0.0, [5, 10, 15, 20]) == pytest.approx([0.25] * 4)
    assert decay_weights("linear", 0.0, [0, 10, 40]) == pytest.approx([1 / 6, 1 / 2, 1 / 3])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with checkpoints 2, 4 and 6, whose parameters are those of seed 0 plus the step."""
    run = tmp_path_factory.mktemp("merging") / "run"
    run_directory.prepare(run, saved.config(), MODEL, None, [{"op": "made"}])
    checkpoints = saved.opened(run, keep=3)
    for step in (2, 4, 6):
        saved.save(checkpoints, step)
    checkpoints.close()
    return run


def test_a_checkpoint_read_slice_by_slice_is_the_checkpoint(runs):
    facts = read_run(runs, 4)
    read, whole = CheckpointSlices(runs, 4, facts), flatten(read_params(runs, 4, facts))
    for path, layer, _ in slices(read.config):
        np.testing.assert_array_equal(read.read(path, layer), whole[path] if layer is None else whole[path][layer])


def test_a_slice_that_is_not_what_was_saved_is_refused(runs):
    facts = read_run(runs, 4)
    changed = {**facts, "digests": {**facts["digests"], "blocks/dense/q": ["0" * 16] * 2}}
    with pytest.raises(JaxptError, match="values of blocks/dense/q, layer 1 are not those that were saved"):
        CheckpointSlices(runs, 4, changed).read("blocks/dense/q", 1)


def test_the_command_merges_checkpoints_and_bundles_and_writes_where_they_came_from(runs, tmp_path, capsys):
    params = models(1)[0]
    save_bundle(Model(MODEL, params, None, ({"op": "drawn"},)), tmp_path / "bundle")
    names = f"{runs}@2,{runs}@6,{tmp_path / 'bundle'}"
    assert merge.main([f"--from={names}", "--weights=1,2,1", f"--to={tmp_path / 'out'}"]) == 0
    got = open_bundle(tmp_path / "out")
    table = got.read("embed/table")
    np.testing.assert_allclose(table, params["embed"]["table"] + (2 + 12) / 4, rtol=1e-5)
    entry = got.lineage[-1]
    assert entry["op"] == "merge"
    assert [(part["path"], part["weight"]) for part in entry["of"]] == list(zip(names.split(","), (0.25, 0.5, 0.25)))
    assert [part["lineage"][-1]["op"] for part in entry["of"]] == ["train", "train", "drawn"]
    assert "0.5" in capsys.readouterr().out


def test_checkpoints_of_one_run_keep_what_they_have_in_common_and_a_decay_weighs_them(runs, tmp_path):
    of = f"--from={runs}@2,{runs}@4,{runs}@6"
    assert merge.main([of, "--decay=linear", f"--to={tmp_path / 'decay'}"]) == 0
    assert merge.main([of, f"--to={tmp_path / 'mean'}"]) == 0
    decay, mean = (open_bundle(tmp_path / name) for name in ("decay", "mean"))
    assert decay.digests == mean.digests
    assert [entry["op"] for entry in mean.lineage] == ["made", "merge"]
    assert mean.lineage[-1]["options"] == {"weights": "mean"}


def test_rows_that_several_have_seen_are_counted_once():
    a = Ledger([Used("f", "k", 0, 0, 100, "web"), Used("g", "k", 0, 0, 10, "code")])
    b = Ledger([Used("f", "k", 0, 0, 50, "web"), Used("f", "k", 0, 101, 201, "web", "", 2)])
    c = Ledger([Used("f", "k", 0, 40, 103, "web")])
    got = {seen.name: (seen.rows, seen.shared) for seen in seen_rows([a, b, c])}
    everything = [set(range(100)), {*range(50), *range(101, 201, 2)}, set(range(40, 103))]
    union = set().union(*everything)
    twice = {row for row in union if sum(row in rows for rows in everything) > 1}
    assert got == {"web": (len(union), len(twice)), "code": (10, 0)}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--from={run}@2"], "give at least two models"),
        (["--from={run}@2,{run}@3"], "has no checkpoint 3; it has 2, 4, 6"),
        (["--from={run}@2,{run}@4", "--weights=1"], "--weights has 1 numbers, there are 2 models"),
        (["--from={run}@2,{run}@4", "--weights=1,-1"], "each must be at least 0"),
        (["--from={run}@2,{run}@4", "--weights=1,x"], "give numbers with commas"),
        (["--from={run}@4,{run}@2", "--decay=linear"], "rising steps, at least two; these are 4, 2"),
        (["--from={run}@2,{run}@4", "--decay=cubic"], "--decay=cubic is not a shape; known: linear"),
        (["--from={run}@2,{run}@4", "--decay=exponential"], "above 0 for an exponential"),
        (["--from={run}@2,{run}@4", "--decay=linear", "--weights=1,1"], "give one of them"),
        (["--from={run}@2,{wide}"], "are not models of one shape: mlp is 48 and 32"),
        (["--from={run}@2,nowhere"], "nowhere"),
    ],
)
def test_a_merge_that_cannot_be_is_an_error_of_one_line(runs, tmp_path, argv, message):
    wide = ModelConfig(48, 16, 4, 2, 8, 48, uniform_layers(2), tie_embeddings=True)
    save_bundle(Model(wide, init_params(wide, 0), None, ()), tmp_path / "wide")
    with pytest.raises(JaxptError) as error:
        merge.main([*(a.format(run=runs, wide=tmp_path / "wide") for a in argv), f"--to={tmp_path / 'out'}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_memory_holds_slices_and_not_models():
    config = ModelConfig(64, 64, 4, 2, 16, 256, uniform_layers(12), tie_embeddings=True)
    params = models(4, config)
    merged = Merged([InMemory(config, p) for p in params], [0.25] * 4, "abcd", "float32")
    largest = max(4 * int(np.prod(shape)) for _, _, shape in slices(config))
    whole = 4 * sum(int(np.prod(s.shape)) for s in flatten(param_specs(config)).values())
    tracemalloc.start()
    for path, layer, _ in slices(config):
        merged.read(path, layer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * largest < whole / 4
    assert check_weights([1, 3], 2) == [0.25, 0.75]
