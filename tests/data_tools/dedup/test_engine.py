"""The global steps: Daft gives what the numpy oracle gives, and the oracle what a plain loop gives."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.dedup.engine import TELEMETRY_OFF, open_engine
from data_tools.dedup.oracle import NumpyEngine, edge_table
from jaxpt.errors import JaxptError

SPREAD = np.uint64(0x9E3779B97F4A7C15)


@pytest.fixture(scope="module")
def daft_engine():
    pytest.importorskip("daft")
    return open_engine("native")


@pytest.fixture(params=[1, 2])
def paths(request, tmp_path):
    """Units with few distinct keys, in one or two files."""
    rng, count, out = np.random.default_rng(request.param), 600, []
    for i in range(request.param):
        columns = {
            "unit": np.arange(count, dtype=np.int64) * 5 + i,
            "b0": rng.integers(0, 300, count).astype(np.uint64) * SPREAD,
            "high": rng.integers(0, 9, count).astype(np.uint64) * SPREAD,
            "low": rng.integers(0, 30, count).astype(np.uint64) * SPREAD,
            "order": rng.integers(-2, 3, count),
        }
        out.append(str(tmp_path / f"{i}.parquet"))
        pq.write_table(pa.table(columns), out[-1])
    return out


def random_edges(seed, count=400, units=500):
    pairs = np.random.default_rng(seed).integers(0, units, (count, 2)) * 7
    return edge_table(pairs.min(axis=1), pairs.max(axis=1))


def plain_components(edges):
    """The slow, obvious way: grow each component from its smallest unit."""
    near = {}
    for a, b in zip(edges["left"].to_pylist(), edges["right"].to_pylist()):
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    label = {}
    for root in sorted(near):
        stack = [] if root in label else [root]
        while stack:
            unit = stack.pop()
            if unit not in label:
                label[unit] = root
                stack += near[unit]
    return label


@pytest.mark.parametrize("split", [(0, 1), (1, 3)])
def test_star_edges_and_repeats_are_the_same_on_daft(paths, daft_engine, split):
    oracle = NumpyEngine()
    assert daft_engine.star_edges(paths, "b0", *split).equals(oracle.star_edges(paths, "b0", *split))
    assert daft_engine.repeats(paths, *split).equals(oracle.repeats(paths, *split))
    assert len(oracle.repeats(paths, *split)) > 50


def test_splits_together_find_what_one_pass_finds(paths):
    oracle = NumpyEngine()
    parts = [oracle.star_edges(paths, "b0", s, 4) for s in range(4)]
    assert oracle.union(parts).equals(oracle.star_edges(paths, "b0"))
    assert not oracle.union(parts[:3]).equals(oracle.star_edges(paths, "b0"))


def test_repeats_keep_the_preferred_unit_of_each_key(paths):
    rows = pa.concat_tables([pq.read_table(p) for p in paths]).to_pylist()
    best = {}
    for row in rows:
        key = (row["high"], row["low"])
        best[key] = min(best.get(key, (99, 0)), (row["order"], row["unit"]))
    want = {r["unit"]: best[r["high"], r["low"]][1] for r in rows if best[r["high"], r["low"]][1] != r["unit"]}
    found = NumpyEngine().repeats(paths)
    assert dict(zip(found["unit"].to_pylist(), found["first"].to_pylist())) == want


@pytest.mark.parametrize("seed", range(4))
def test_components_equal_a_plain_search_on_both_engines(seed, daft_engine):
    edges = random_edges(seed)
    want = plain_components(edges)
    for engine in (NumpyEngine(), daft_engine):
        found = engine.components(edges)
        assert dict(zip(found["unit"].to_pylist(), found["label"].to_pylist())) == want


def test_a_long_chain_in_random_order_is_one_component(daft_engine):
    order = np.random.default_rng(0).permutation(800)
    edges = edge_table(np.minimum(order[:-1], order[1:]), np.maximum(order[:-1], order[1:]))
    for engine in (NumpyEngine(), daft_engine):
        found = engine.components(edges)
        assert set(found["label"].to_pylist()) == {0}
        assert len(found) == 800


def test_union_and_anti_join_are_the_same_on_daft(daft_engine):
    oracle, tables = NumpyEngine(), [random_edges(1), random_edges(2), random_edges(1)]
    assert daft_engine.union(tables).equals(oracle.union(tables))
    units, dropped = pa.table({"unit": np.arange(50)}), pa.table({"unit": np.arange(10, 60, 3)})
    kept = oracle.anti_join(units, dropped)
    assert daft_engine.anti_join(units, dropped).equals(kept)
    assert kept["unit"].to_pylist() == sorted(set(range(50)) - set(range(10, 60, 3)))


def test_nothing_in_gives_nothing_out(daft_engine):
    for engine in (NumpyEngine(), daft_engine):
        assert len(engine.star_edges([], "b0")) == len(engine.union([])) == 0
        assert len(engine.components(edge_table([], []))) == 0


def test_an_unknown_engine_names_its_neighbour():
    with pytest.raises(JaxptError, match="did you mean 'native'"):
        open_engine("nativ")


LISTENING = """
import os, socket, sys, threading
asked = []
def refuse(host, *args, **kwargs):
    asked.append(str(host))
    raise OSError("no network in this test")
socket.getaddrinfo = refuse
if sys.argv[1] == "silent":
    from data_tools.dedup.engine import TELEMETRY_OFF, open_engine
    import pyarrow as pa
    open_engine("native").union([pa.table({"left": [1], "right": [2]})])
else:
    import daft
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(20)
print("asked for", asked)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["silent", "as shipped"])
def test_no_telemetry_leaves_the_engine_although_daft_alone_would_send_some(how):
    pytest.importorskip("daft")
    env = {k: v for k, v in os.environ.items() if k not in TELEMETRY_OFF}
    env["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    call = [sys.executable, "-c", LISTENING, how]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=300, check=True)
    assert ("asked for []" in done.stdout) == (how == "silent"), done.stdout
