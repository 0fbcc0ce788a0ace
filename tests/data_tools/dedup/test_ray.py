"""Deduplication on a real local Ray cluster of two nodes: same results as the oracle (skipped without Ray)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.io.ownership import NOTE

ROOT = Path(__file__).resolve().parents[3]
# Telemetry is left to the engine to switch off; the cluster's own processes are this test's, so they are set here.
SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
from data_tools.dedup.engine import TELEMETRY_OFF, open_engine
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
del os.environ["RAY_USAGE_STATS_ENABLED"]

from data_tools.commands import dedup
from tests.data_tools.dedup.test_pipeline import planted
folder = Path(sys.argv[1])
(folder / "raw").mkdir()
for shard in planted(3, 60)[1]:
    rows = (json.dumps({"id": f"{shard.name}-{i}", "text": text}) for i, text in enumerate(shard.texts))
    (folder / f"raw/{shard.name}.jsonl").write_text("\\n".join(rows))
for engine in ("numpy", "ray"):
    args = [f"--input={folder}/raw/*.jsonl", f"--output={folder}/{engine}", f"--engine={engine}"]
    assert dedup.main([*args, "--bands=4", "--rows=4", f"--ray_address={cluster.address}"]) == 0
assert len([n for n in ray.nodes() if n["Alive"]]) == 2
found = lambda: {k: os.environ.get(k) for k in TELEMETRY_OFF}
assert found() == ray.get(ray.remote(found).remote()) == TELEMETRY_OFF  # here and on a worker
print("two nodes did it")
"""


def outputs(folder: Path) -> dict[str, bytes]:
    no_times = (p for p in folder.rglob("*") if p.name != NOTE)
    files = (p for p in no_times if p.is_file() and "signatures" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.slow
def test_two_ray_nodes_write_what_the_oracle_writes(tmp_path):
    pytest.importorskip("ray", reason="--engine=ray is the extra [ray]")
    pytest.importorskip("daft")
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_USAGE_STATS_ENABLED", "DO_NOT_TRACK")}
    slow = {
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_gcs_server_request_timeout_seconds": "300",
    }  # machines under load
    env |= {"PYTHONPATH": str(ROOT), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **slow}
    call = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert "two nodes did it" in done.stdout, done.stderr[-2000:]
    written = outputs(tmp_path / "ray")
    assert written == outputs(tmp_path / "numpy")
    assert b"dedup-near" in written["removals/s0.jsonl.jsonl"]
