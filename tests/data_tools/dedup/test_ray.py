"""The global steps on a real local Ray cluster of two nodes: same results as the oracle (skipped without Ray)."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", DO_NOT_TRACK="true")
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
assert len([n for n in ray.nodes() if n["Alive"]]) == 2
from data_tools.dedup.engine import open_engine
from data_tools.dedup.oracle import NumpyEngine
rng, paths = np.random.default_rng(0), []
for i in range(2):
    spread = np.uint64(0x9E3779B97F4A7C15)
    columns = {"unit": np.arange(500) * 2 + i, "b0": rng.integers(0, 300, 500).astype(np.uint64) * spread,
               "high": rng.integers(0, 9, 500).astype(np.uint64), "low": rng.integers(0, 30, 500).astype(np.uint64),
               "order": rng.integers(-2, 3, 500)}
    paths.append(f"{sys.argv[1]}/{i}.parquet")
    pq.write_table(pa.table(columns), paths[-1])
oracle, engine = NumpyEngine(), open_engine("ray", cluster.address)
edges = oracle.star_edges(paths, "b0")
assert engine.star_edges(paths, "b0").equals(edges)
assert engine.repeats(paths).equals(oracle.repeats(paths))
assert engine.components(edges).equals(oracle.components(edges))
dropped = oracle.repeats(paths).select(["unit"])
units = pa.table({"unit": np.arange(1000)})
assert engine.anti_join(units, dropped).equals(oracle.anti_join(units, dropped))
print("two nodes agree with the oracle", len(edges), len(dropped))
"""


def test_two_ray_nodes_agree_with_the_oracle(tmp_path):
    pytest.importorskip("ray")
    pytest.importorskip("daft")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    call = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert "two nodes agree with the oracle" in done.stdout, done.stderr[-2000:]
