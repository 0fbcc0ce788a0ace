"""`jaxpt distill-cache`: what it keeps of a teacher, the same however it is written, and a run that reads it."""

import json
import os
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jaxpt
from jaxpt import cli
from jaxpt.api import load
from jaxpt.data.packed import PackedSource
from jaxpt.data.target_cache import TargetCache
from jaxpt.data.target_writer import begin, fill
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, beside
from jaxpt.models import Model, forward, init_params
from jaxpt.training.config import ShardingConfig
from jaxpt.training.metrics import read
from jaxpt.training.starting_point import open_start
from jaxpt.training.state import make_layout
from jaxpt.training.teacher_cache import TargetOptions, TeacherTargets, origin_of
from tests.data.made import source
from tests.training import tiny

TEACHER = tiny.MODEL.replace(vocab_size=512, embed=24, kv_heads=4)
ROWS, S = 21, 16
CONFIG = """
def get_config(folder):
    model = dict(vocab_size=512, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=1, tie_embeddings=True)
    cache = {n: folder + "/" + n + ".targets" for n in "ab"}
    one = dict(start=1.0, end=None)
    return dict(
        model=model,
        sources={n: dict(path=folder + "/" + n) for n in "ab"},
        stages=[
            dict(
                duration="2 steps", batch_size=16, sequence_length=16, mixture=dict(a=0.5, b=0.5), microbatches=2,
                objective=dict(name="distill", cache=cache, temperature=one),
            )
        ],
        optimizer=dict(learning_rate=1e-2),
        checkpoint=dict(every="1 steps"),
        metrics=dict(every=1, tensorboard=False),
    )
"""


def teacher(seed):
    """Weights so large that predictions are far from even."""
    return Model(TEACHER, jax.tree.map(lambda x: x * 20 if x.ndim > 1 else x, init_params(TEACHER, seed)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sources, two teachers, and the caches of the first."""
    folder = tmp_path_factory.mktemp("cache")
    for tag, name in enumerate("ab"):
        source(folder / name, ROWS, S, tag=tag, vocab=512)
    jaxpt.save(teacher(1), folder / "teacher")
    jaxpt.save(teacher(2), folder / "another")
    (folder / "config.py").write_text(CONFIG)
    for name in "ab":
        assert command(folder, f"--source={folder / name}") == 0
    return folder


def command(folder, *flags):
    flags = ("--batch_size=8", "--rows_per_shard=8", *flags)
    return cli.main(["distill-cache", f"--teacher={folder / 'teacher'}", *flags])


def train(folder, workdir, *overrides):
    return cli.main(["train", f"--config={folder / 'config.py'}:{folder}", f"--workdir={workdir}", *overrides])


def content(path):
    """Every file of a cache, but those that a killed writer left."""
    return {f.name: f.read_bytes() for f in sorted(path.glob("[!.]*"))}


def targets_of(folder, batch_size=2, **options):
    """(origin, what computes rows) on one device."""
    start, packed = open_start(str(folder / "teacher"), "params", "teacher"), PackedSource.open(folder / "a")
    origin = origin_of(packed, start, None, TargetOptions(**options))
    layout = make_layout(start.model, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    return origin, start, TeacherTargets(packed, origin, start, layout, batch_size)


def test_what_is_kept_are_draws_from_the_teachers_distribution_and_its_entropy(folder, capsys):
    cache, packed = TargetCache.open(folder / "a.targets"), PackedSource.open(folder / "a")
    rows = np.arange(ROWS)
    batch, arrays = packed.read(rows), cache.read(rows)
    logits = forward(TEACHER, teacher(1).params, *(batch[k] for k in ("tokens", "segment_ids", "positions")))
    log_p = np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)
    real = batch["loss_weights"] > 0
    np.testing.assert_array_equal(arrays.weights.sum(-1) > 0, real)
    np.testing.assert_allclose(arrays.weights.sum(-1)[real], 1, rtol=1e-6)
    np.testing.assert_allclose(arrays.entropy[real], -np.sum(np.exp(log_p) * log_p, -1)[real], rtol=1e-3, atol=1e-3)
    # Σ over positions of (log p of the draws + entropy) has mean 0: what is drawn is as likely as it should be
    drawn = np.sum(arrays.weights * np.take_along_axis(log_p, arrays.ids, -1), -1)[real] + arrays.entropy[real]
    assert abs(drawn.mean()) < 4 * drawn.std() / np.sqrt(drawn.size)
    shuffled = np.sum(arrays.weights * np.take_along_axis(log_p[:, ::-1], arrays.ids, -1), -1)[real]
    assert abs((shuffled + arrays.entropy[real]).mean()) > 1  # the proof above can fail
    assert cache.payload == sum(len(r) for r in cache._shards.read(rows))


def test_the_command_says_how_many_ids_and_bytes_a_token_takes(folder, capsys):
    assert command(folder, f"--source={folder / 'a'}") == 0  # whole already: nothing is written
    out, cache = capsys.readouterr().out, TargetCache.open(folder / "a.targets")
    u = cache.ids / cache.positions
    assert f"50 draws, {u:.1f} distinct ids on average, at most {cache.width}" in out
    assert f"{3 * u + 3 + 1 / 15:.1f} bytes per token" in out  # a row's last position stores its length alone
    assert "a.targets: 0 positions written here" in out
    assert cli.main(["inspect", str(folder / "a.targets"), "--verify"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2:] == [out.splitlines()[-1], "every file is as it was written"]


def test_bytes_do_not_depend_on_the_batch_size_nor_on_a_stop_on_the_way(folder, tmp_path):
    origin, _, rows_of = targets_of(folder, batch_size=3)
    path = tmp_path / "cache"
    begun = begin(path, origin, 8, "bundle " + str(folder / "teacher"))
    writing = fill(path, begun, rows_of)
    next(writing)
    writing.close()
    with pytest.raises(JaxptError, match="it was not written to the end"):
        TargetCache.open(path)
    (path / ".targets-00001.array_record.partial").write_bytes(b"left by a kill")
    again = begin(path, origin, 8, "another name for the same")
    assert [i for i, _ in fill(path, again, rows_of)] == [1, 2]
    (path / ".targets-00001.array_record.partial").unlink(missing_ok=True)
    assert content(path) == content(folder / "a.targets")
    other, _, rows_of = targets_of(folder, seed=1)
    begun = begin(tmp_path / "other", other, 8, "t")
    list(fill(tmp_path / "other", begun, rows_of))
    assert content(tmp_path / "other")["targets-00000.array_record"] != content(path)["targets-00000.array_record"]


def test_a_shard_that_another_process_writes_is_left_to_it(folder, tmp_path):
    origin, _, rows_of = targets_of(folder)
    path = tmp_path / "cache"
    begun = begin(path, origin, 8, "bundle " + str(folder / "teacher"))
    lock = Lock(beside(path / "targets-00001.array_record"), path).acquire()
    writing = fill(path, begun, rows_of)
    assert [next(writing)[0], next(writing)[0]] == [0, 2]
    lock.release()
    assert [i for i, _ in writing] == [1]
    assert content(path) == content(folder / "a.targets")


def test_a_sharded_teacher_draws_as_on_one_device(folder, tmp_path):
    assert command(folder, f"--source={folder / 'a'}", f"--to={tmp_path / 'c'}", "--mesh=fsdp=4,tensor=2") == 0
    one, many = (TargetCache.open(p).read(np.arange(ROWS)) for p in (folder / "a.targets", tmp_path / "c"))
    np.testing.assert_allclose(one.entropy, many.entropy, rtol=2e-3)
    width = min(one.ids.shape[-1], many.ids.shape[-1])
    same = (one.ids[..., :width] == many.ids[..., :width]).all(-1)
    assert same.mean() > 0.98  # the last bits of logits may move an id at the edge of two


def test_a_run_learns_from_caches_and_goes_on_bit_for_bit(folder, tmp_path, capsys):
    assert train(folder, tmp_path / "run") == 0
    assert "forward_kl at temperature 1, alpha 0.9 to 0.5, cosine, from the caches of a, b" in capsys.readouterr().out
    records = [r for r in read(tmp_path / "run" / "metrics.jsonl") if "train/loss" in r]
    assert [r["train/divergence"] > 0.1 for r in records] == [True, True]
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    assert train(folder, tmp_path / "again", "--from_step=1") == 0
    a, b = (load(tmp_path / name).params for name in ("run", "again"))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    shutil.copytree(folder / "b.targets", tmp_path / "kept")
    try:
        shutil.rmtree(folder / "b.targets")
        assert command(folder, f"--source={folder / 'b'}", "--seed=7") == 0
        assert train(folder, tmp_path / "again", "--from_step=1") == 1
        assert "the cache of source b is not the one that this run began with" in capsys.readouterr().err
    finally:
        shutil.rmtree(folder / "b.targets")
        shutil.copytree(tmp_path / "kept", folder / "b.targets")


@pytest.mark.slow
def test_two_microbatches_learn_from_a_cache_as_one(folder, tmp_path):
    records = []
    for count in (1, 2):
        assert train(folder, tmp_path / str(count), f"--config.stages[0].microbatches={count}") == 0
        records.append([r for r in read(tmp_path / str(count) / "metrics.jsonl") if "train/loss" in r])
    for key in ("train/loss", "train/divergence", "train/grad_norm"):
        np.testing.assert_allclose(*([r[key] for r in run] for run in records), rtol=1e-3)


CACHE, OBJECTIVE = "--config.stages[0].objective.cache", "--config.stages[0].objective"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [f"{CACHE}={{'a': 'FOLDER/a.targets'}}"],
            "has none for source b, which the stage uses; write one: jaxpt dist",
        ),
        ([f"{CACHE}.b=FOLDER/a.targets"], "belongs to the rows of another packed source"),
        ([f"{CACHE}.b=FOLDER/b"], "is not a cache of teacher targets (no targets.json)"),
        ([f"{CACHE}.c=FOLDER/b"], "cache.c: there is no source 'c'"),
        ([f"{OBJECTIVE}.temperature.start=2.0"], "temperature is 2, the caches have 1; set temperature.start=1"),
        ([f"{OBJECTIVE}.temperature.end=2.0"], "temperature is 1 to 2, cosine, a cache has one"),
        ([f"{OBJECTIVE}.divergence=reverse_kl"], "divergence is reverse_kl, which needs the teacher's whole"),
        ([f"{OBJECTIVE}.divergence=jensen_shannon"], "divergence is jensen_shannon, which needs"),
        ([f"{OBJECTIVE}.teacher=FOLDER/another"], "was written by another model (bundle"),
        (["--config.stages[0].pose={'target': 64}"], "the teacher saw each row's own positions"),
    ],
)
def test_what_cannot_be_right_is_refused_before_step_one(folder, tmp_path, capsys, flags, message):
    assert train(folder, tmp_path / "run", *(flag.replace("FOLDER", str(folder)) for flag in flags)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_cache_is_not_gone_on_with_by_another_teacher_or_with_other_options(folder, capsys):
    to = f"--source={folder / 'a'}"
    for flags, word in (
        ([to, f"--teacher={folder / 'another'}"], "teacher"),
        ([to, "--draws=40"], "ids 50, this is 40"),
        ([to, "--seed=3"], "seed 0, this is 3"),
        ([to, "--temperature=2"], "temperature 1.0, this is 2.0"),
        ([f"--source={folder / 'b'}", f"--to={folder / 'a.targets'}"], "source"),
    ):
        assert command(folder, *flags) == 1
        assert f"was begun with {word}" in capsys.readouterr().err


def test_a_teacher_of_another_vocabulary_or_tokenizer_is_refused(folder, tmp_path, capsys):
    source(tmp_path / "wide", 4, S, vocab=600)
    assert command(folder, f"--source={tmp_path / 'wide'}") == 1
    assert "--teacher has 512 entries in its vocabulary" in capsys.readouterr().err
    start = open_start(str(folder / "teacher"), "params", "teacher")
    with pytest.raises(JaxptError, match="--teacher has tokenizer other"):
        origin_of(PackedSource.open(folder / "a"), start, "other", TargetOptions())


def test_damage_is_noticed(folder, tmp_path, capsys):
    path = tmp_path / "cache"
    shutil.copytree(folder / "a.targets", path)
    shard = path / "targets-00001.array_record"
    whole = shard.read_bytes()
    at = whole.find(bytes(TargetCache.open(path)._shards.read([9])[0])) + 40
    shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(JaxptError, match=r"records cannot be read|is damaged"):
        TargetCache.open(path).read(np.arange(8, 16))
    with pytest.raises(JaxptError, match="was changed since it was written"):
        TargetCache.open(path).verify()
    assert cli.main(["inspect", str(path), "--verify"]) == 1
    assert "was changed since it was written" in capsys.readouterr().err
    shard.write_bytes(whole[:-1])
    with pytest.raises(JaxptError, match=r"targets\.json says"):
        TargetCache.open(path)
    facts = json.loads((path / "targets.json").read_text())
    (path / "targets.json").write_text(json.dumps({**facts, "temperature": 2.0}))
    with pytest.raises(JaxptError, match=r"targets\.json is damaged"):
        TargetCache.open(path)


def test_top_k_is_an_option(folder, tmp_path, capsys):
    assert command(folder, f"--source={folder / 'a'}", f"--to={tmp_path / 'c'}", "--top_k=7") == 0
    cache = TargetCache.open(tmp_path / "c")
    assert (cache.width, cache.ids) == (7, 7 * cache.positions)
    assert f"the 7 likeliest ids, 7.0 distinct ids on average, at most 7; {5 * 7 + 3 + 1 / 15:.1f} bytes" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_killed_cache_goes_on_and_two_processes_fill_it_with_the_bytes_of_one(folder, tmp_path):
    origin, start, rows_of = targets_of(folder, batch_size=1)
    list(fill(tmp_path / "one", begin(tmp_path / "one", origin, 1, start.description), rows_of))
    path = tmp_path / "many"
    places = [f"--teacher={folder / 'teacher'}", f"--source={folder / 'a'}", f"--to={path}"]
    words = [sys.executable, "-m", "jaxpt", "distill-cache", *places, "--batch_size=1", "--rows_per_shard=1"]
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    started = lambda: subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)  # noqa: E731
    killed = started()
    try:
        while not (path / "targets-00001.json").exists() and killed.poll() is None:
            time.sleep(0.001)
    finally:
        killed.kill()
        killed.wait()
    assert not (path / "targets.json").exists()
    together = [started(), started()]
    assert [p.wait(timeout=600) for p in together] == [0, 0]
    assert all("positions written here" in p.stdout.read() for p in together)
    assert content(path) == content(tmp_path / "one")
