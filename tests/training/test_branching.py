"""A branch goes on from a checkpoint of another run: bit for bit what one run would be; siblings together and apart."""

import itertools
import json
import shutil

import numpy as np
import pytest

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.commands.train import train
from jaxpt.config.schema import build
from jaxpt.data import PackedSource
from jaxpt.data.ledger import Ledger
from jaxpt.data.permutation import Permutation
from jaxpt.errors import JaxptError
from jaxpt.training import branching
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from tests.training.run_made import CONFIG
from tests.training.run_packed import LENGTH, MODEL, ROWS, make

STEADY = {"name": "constant"}
DOWN = {"name": "linear", "end": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sources, and a trunk of six steps that keeps its checkpoints at 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("branches")
    make(folder)
    run(folder, "trunk", leg("6 steps", name="main"))
    return folder


def leg(duration, schedule=STEADY, **more):
    mixture = {"a": 0.3, "b": 0.3, "c": 0.4}
    return {
        "duration": duration,
        "batch_size": 8,
        "sequence_length": LENGTH,
        "mixture": mixture,
        **more,
        "schedule": schedule,
    }


def configured(folder, *stages, **more):
    values = {
        **CONFIG,
        "model": MODEL,
        "sharding": {"mesh": {"fsdp": -1}},
        "metrics": {"every": 1, "tensorboard": False},
    }
    values["checkpoint"] = {"every": "2 steps", "keep": 100}
    values["sources"] = {n: {"path": f"{folder}/{n}"} for n in ROWS}
    return build(RunConfig, {**values, "stages": list(stages), **more})


def run(folder, name, *stages, **more):
    if "branch_from" in more:
        more["branch_from"] = f"{folder}/{more['branch_from']}"
    assert train(configured(folder, *stages, **more), folder / name) == 0
    return folder / name


def saved(workdir, step):
    return read_run(workdir, step)


def curve(workdir):
    return {r["step"]: (r["train/loss"], r["optim/learning_rate"]) for r in read(workdir / "metrics.jsonl")}


def rows_of(folder, item):
    """The rows that a ledger names, per source, as (epoch, row)."""
    out = {}
    for entry in Ledger.from_json(item["ledger"]).entries:
        permute = Permutation(PackedSource.open(f"{folder}/{entry.name}").rows, f"{entry.key}:{entry.epoch}")
        rows = permute(np.arange(entry.start, entry.stop, entry.every))
        out.setdefault(entry.name, []).extend((entry.epoch, int(row)) for row in rows)
    assert all(len(rows) == len(set(rows)) for rows in out.values())
    return {name: set(rows) for name, rows in out.items()}


def test_a_branched_cooldown_is_bit_for_bit_the_run_in_one_piece(folder):
    cooldown = leg("4 steps", DOWN, name="cooldown")
    branch = run(folder, "branch", cooldown, branch_from="trunk@4")
    whole = run(folder, "whole", leg("4 steps", name="main"), cooldown)
    mine, other = saved(branch, 8), saved(whole, 8)
    for key in ("digests", "ledger", "tokens", "flops"):  # digests: of every layer of parameters and moments
        assert mine[key] == other[key], key
    straight = curve(whole)
    assert curve(branch) == {step: straight[step] for step in (5, 6, 7, 8)}
    assert curve(branch)[5][1] == 1e-2  # the rate was where it was
    begun = [r for r in map(json.loads, (branch / "events.jsonl").read_text().splitlines()) if r["event"] == "branch"]
    assert [(r["step"], r["run"]) for r in begun] == [(4, f"{folder}/trunk")]


def test_a_branch_from_another_step_is_another_model(folder):  # the proof above can fail
    other = run(folder, "later", leg("2 steps", DOWN, name="cooldown"), branch_from="trunk@6")
    assert saved(other, 8)["digests"] != saved(folder / "branch", 8)["digests"]


def test_a_branch_that_was_stopped_goes_on_without_its_trunk(folder, tmp_path):
    stages = [leg("4 steps", DOWN, name="cooldown")]
    shutil.copytree(folder / "trunk", tmp_path / "trunk")
    place = f"{tmp_path}/trunk@4"
    config = configured(folder, *stages, branch_from=place)
    workdir = tmp_path / "branch"
    assert train(config, workdir) == 0
    shutil.rmtree(tmp_path / "trunk")
    for step in (6, 8):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    assert train(config, workdir) == 0  # from the copy of step 4
    assert saved(workdir, 8)["digests"] == saved(folder / "branch", 8)["digests"]
    assert "trunk/main" in {leg["stage"] for leg in saved(workdir, 8)["history"]}


def test_siblings_share_rows_and_those_apart_share_none_with_each_other_or_the_trunk(folder):
    stages = [leg("6 steps", name="on")]
    together = [run(folder, f"together{i}", *stages, branch_from="trunk@4", seed=0) for i in range(2)]
    parts = [
        run(folder, f"apart{i}", *stages, branch_from="trunk@4", branch={"rows": "apart", "part": f"{i}/3"})
        for i in (1, 2, 3)
    ]
    trunk = rows_of(folder, saved(folder / "trunk", 4))
    assert rows_of(folder, saved(together[0], 10)) == rows_of(folder, saved(together[1], 10))
    taken = [rows_of(folder, saved(run, 10)) for run in parts]
    for source in ROWS:
        after = [rows[source] - trunk[source] for rows in taken]
        assert all(len(rows) == len(after[0]) > 0 for rows in after)
        assert all(trunk[source] <= rows[source] for rows in taken)
        assert all(not a & b for a, b in itertools.combinations(after, 2))
    union = Ledger(itertools.chain(*(Ledger.from_json(saved(run, 10)["ledger"]).entries for run in parts)))
    assert all(entry.every == 1 for entry in union.entries)  # together they took all rows up to somewhere
    assert sum(e.stop - e.start for e in union.entries) == 32 + 3 * 48
    again = train(configured(folder, *stages, leg("2 steps"), branch_from=f"{folder}/trunk@4",
                             branch={"rows": "apart", "part": "2/3"}), parts[1])  # fmt: skip
    assert again == 0
    now = rows_of(folder, saved(parts[1], 12))
    assert all(taken[1][n] < now[n] and not (now[n] - trunk[n]) & (taken[0][n] - trunk[n]) for n in ROWS)


def test_a_branch_starts_with_the_trunks_seed_and_the_default_peak_is_the_rate_it_reached(folder):
    falling = run(folder, "falling", leg("6 steps", {"name": "linear", "end": 0.1}, name="main"))
    reached = saved(falling, 4)["learning_rate_next"]
    branch = run(folder, "slow", leg("2 steps", STEADY, name="hold"), branch_from="falling@4")
    assert {rate for _, rate in curve(branch).values()} == {reached}
    assert 0 < reached < 1e-2


def test_what_the_trunk_removes_meanwhile_leaves_nothing_behind(folder, tmp_path):
    shutil.copytree(folder / "trunk", tmp_path / "trunk")
    config = configured(folder, leg("2 steps"), branch_from=f"{tmp_path}/trunk@4")
    branch = branching.open_branch(config)
    prune = lambda: shutil.rmtree(tmp_path / "trunk/checkpoints/4/opt_state")  # noqa: E731
    with pytest.raises(JaxptError, match="removed checkpoint 4 while it was copied"):
        branching.copy_checkpoint(branch, tmp_path / "new", prune)
    assert list((tmp_path / "new" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("trunk@3", "has no checkpoint 3; it has 2, 4, 6"),
        ("trunk", "it must be RUN@STEP with the number of a checkpoint; it has 2, 4, 6"),
        ("trunk@2M tokens", "it must be RUN@STEP with the number of a checkpoint; it has 2, 4, 6"),
        ("nowhere@3", "is no run directory"),
    ],
)
def test_a_place_that_is_not_there_is_refused_before_anything_is_written(folder, place, message):
    with pytest.raises(JaxptError) as error:
        run(folder, "refused", leg("2 steps"), branch_from=place)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ({"rows": "apart"}, "rows=apart needs which of how many siblings this is"),
        ({"rows": "apart", "part": "3/2"}, "part is '3/2'"),
        ({"part": "1/2"}, "set --config.branch.rows=apart"),
    ],
)
def test_a_part_that_cannot_be_is_refused(folder, branch, message):
    with pytest.raises(JaxptError, match=message):
        configured(folder, leg("2 steps"), branch_from="trunk@4", branch=branch)


def test_a_branch_from_the_end_of_a_decay_needs_a_rate(folder):
    with pytest.raises(JaxptError, match="reached at step 8 is 0; give each stage a learning_rate"):
        run(folder, "refused", leg("2 steps"), branch_from="branch@8")
    again = run(folder, "rewarmed", leg("2 steps", learning_rate=1e-3), branch_from="branch@8")
    assert finished_steps(again) == [8, 10]
    stages = [entry["stage"] for entry in saved(again, 10)["history"]]
    assert stages == ["trunk/trunk/main", "trunk/cooldown", "stage0"]
