"""stories260K cut down: better methods start closer to their parent; scores, ledger and files on a real model."""

import jax
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.picture import draw_scores
from jaxpt.reshape.scores import AXES, Scores
from jaxpt.reshape.sequence import rewrites_of
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import InMemory, chain
from jaxpt.reshape.target import Target
from jaxpt.reshape.transforms.prune_depth import PruneDepth
from jaxpt.reshape.transforms.random_init import RandomInit
from jaxpt.reshape.transforms.subclone import Subclone
from jaxpt.reshape.walk import loss
from tests.reshape.stories import stories, story_batches


@pytest.fixture(scope="module")
def model(shared):
    return stories(shared)


@pytest.fixture(scope="module")
def source(model):
    return InMemory(model.config, model.params)


@pytest.fixture(scope="module")
def data(model, shared):
    batches = story_batches(model, shared, 4)
    return batches[:2], batches[2:]  # calibration, evaluation


@pytest.fixture(scope="module")
def scores(source, data):
    return activation_scores(source, data[0], data="stories")


def loss_of(source, data, transform, target, **setting):
    s = ReshapeSetting(Target(**target), data[0], {"name": "stories"}, log=lambda line: None, **setting)
    return loss(chain(source, rewrites_of(source, [transform], s)), data[1])


def test_better_methods_start_closer_to_their_parent(source, data):
    parent = loss(source, data[1])
    assert parent < 2
    uniform = Subclone(selection="uniform")
    for target in ({"mlp": 86}, {"embed": 48, "mlp": 128, "kv_heads": 3}):
        start = [
            loss_of(source, data, transform, target)
            for transform in (
                Subclone(compensate=True),
                Subclone(),
                uniform,
                RandomInit(),
            )
        ]
        assert parent < start[0] < start[1] < start[2] < start[3], (target, start)


def test_removing_layers_one_by_one_beats_removing_the_first_ones(source, data):
    best = loss_of(source, data, PruneDepth(by="loss"), {"layers": 3})
    first = loss_of(source, data, Subclone(selection="uniform"), {"layers": 3})
    assert best < first


def test_scores_survive_the_disk_and_broken_files_are_named(scores, tmp_path):
    scores.save(tmp_path / "s.npz")
    again = Scores.load(tmp_path / "s.npz")
    assert again.meta == dict(scores.meta)
    jax.tree.map(np.testing.assert_array_equal, dict(again.values), dict(scores.values))
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]
    (tmp_path / "bad.npz").write_bytes((tmp_path / "s.npz").read_bytes()[:500])
    with pytest.raises(JaxptError, match=r"bad\.npz is not a file of scores"):
        Scores.load(tmp_path / "bad.npz")
    with pytest.raises(JaxptError, match="there is no file of scores"):
        Scores.load(tmp_path / "none.npz")


def test_scores_do_not_depend_on_how_rows_are_split_into_batches_or_devices(source, data, scores):
    from jaxpt.sharding import batch_sharding, make_mesh

    halves = [{k: v[i : i + 4] for k, v in b.items()} for b in data[0] for i in (0, 4)]
    mesh = make_mesh({"data": 8})
    spread = [jax.device_put(b, batch_sharding(mesh)) for b in data[0]]
    for batches in (halves, spread):
        other = activation_scores(source, batches, data="stories")
        for name in scores.values:
            np.testing.assert_allclose(other.get(name), scores.get(name), rtol=2e-4, err_msg=name)


def test_padding_does_not_count(source, data, scores):
    padded = []
    for b in data[0]:
        wide = {k: np.pad(v, ((0, 0), (0, 16))) for k, v in b.items()}
        padded.append(wide)
    other = activation_scores(source, padded, data="stories")
    for name in AXES:
        if name in scores.values:
            np.testing.assert_allclose(other.get(name), scores.get(name), rtol=2e-4, err_msg=name)


def test_every_aggregation_gives_scores_and_unknown_ones_are_named(source, data):
    ranks = {}
    for over_sequence in ("mean", "l2"):
        for over_batch in ("mean", "l2"):
            s = activation_scores(source, data[0][:1], data="x", over_sequence=over_sequence, over_batch=over_batch)
            ranks[over_sequence, over_batch] = s.get("mlp")
    assert len({v.tobytes() for v in ranks.values()}) == 4
    with pytest.raises(JaxptError, match="over_batch is 'max'"):
        activation_scores(source, data[0], data="x", over_batch="max")


def test_pictures_are_drawn(scores, tmp_path):
    names = {p.name for p in draw_scores(scores, tmp_path)}
    assert names == {"embed.png", "mlp.png", "heads.png", "kv_heads.png", "layers.png"}
    assert all((tmp_path / n).stat().st_size > 5000 for n in names)
