"""The real train step compiles for a TPU pod that is not there, in a process of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.tpu,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is absent: jaxpt[tpu] brings it"),
]

PROGRAM = """
import json, os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
from types import SimpleNamespace
from jaxpt.models.size import param_count
from jaxpt.training.config import RunConfig
from jaxpt.errors import JaxptError
from jaxpt.models.specs import flatten
from jaxpt.planning import compile_step, topology_devices
from jaxpt.config.schema import build
from jaxpt.training.run_plan import make_plan

settings = json.loads(sys.argv[1])
rows, model = settings["rows"], {"layers": 2, **settings.get("model", {})}
config = build(RunConfig, {
    "model": {"vocab_size": 1024, "embed": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "mlp": 512, **model},
    "sources": {"a": {"path": "made"}},
    "compute": {"dtype": "bfloat16", "remat": "full"},
    "sharding": {"mesh": settings.get("mesh", {"fsdp": 8, "tensor": 2})},
    "stages": [{"duration": "10 steps", "batch_size": rows, "sequence_length": 512, "mixture": {"a": 1.0}}],
})
source = SimpleNamespace(rows=10**9, sequence_length=512, vocab_size=1024, tokenizer_fingerprint="")
plan = make_plan(config, {"a": source})
try:
    got = compile_step(plan, topology_devices(settings["topology"]))
except JaxptError as e:
    print(json.dumps({"error": str(e)}))
    sys.exit()
specs = {path: list(s.spec) for path, s in flatten(got.state_shardings._asdict()).items()}
facts = {k: getattr(got, k) for k in ("arguments", "aliased", "temporary", "collectives", "custom_kernels")}
print(json.dumps({**facts, "specs": specs, "params": param_count(plan.model)}))
"""


def compiled(**settings):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps({"rows": 16, "topology": "v5e:4x4", **settings})],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().split("\n")[-1])


@pytest.fixture(scope="module")
def fits():
    return compiled()


def test_parameters_and_moments_lie_as_the_rules_say(fits):
    for tree in ("params", "opt_state/mu", "opt_state/nu"):
        assert fits["specs"][f"{tree}/blocks/dense/q"] == [None, "fsdp", "tensor"]
        assert fits["specs"][f"{tree}/blocks/dense/down"] == [None, "tensor", "fsdp"]
        assert fits["specs"][f"{tree}/embed/table"] == ["tensor", "fsdp"]


def test_the_state_is_split_over_the_pod_and_updated_in_place(fits):
    state = 3 * 4 * fits["params"] / 16  # parameters and two moments in float32, over 16 devices
    assert state < fits["aliased"] < 1.1 * state + 200_000  # small leaves are whole, and the compiler pads tiles
    assert fits["aliased"] > 0.9 * (fits["arguments"] - 16 * 512 * 4 * 5)


def test_attention_is_the_pallas_kernel_forward_and_backward(fits):
    assert fits["custom_kernels"] >= 3
    assert fits["collectives"].get("all-gather", 0) > 0


@pytest.mark.slow
def test_experts_are_split_over_the_pod_and_computed_by_the_pallas_kernel(fits):
    moe = {"experts": 8, "experts_per_token": 2, "mlp": 256}
    layers = [{"ffn": "dense", "count": 1}, {"ffn": "moe", "count": 1}]
    got = compiled(model={"layers": layers, "moe": moe}, mesh={"fsdp": 4, "expert": 4})
    assert got["specs"]["params/blocks/moe/expert_up"][1] == "expert"
    assert got["custom_kernels"] > fits["custom_kernels"]
    assert got["collectives"].get("all-to-all", 0) > 0


def test_a_batch_that_does_not_fit_is_refused_by_the_compiler():
    printed = compiled(rows=8 * 8192)["error"]
    assert "does not fit" in printed
    assert "memory" in printed.lower() or "hbm" in printed.lower()


def test_an_unknown_topology_is_named():
    assert "--topology=v5litepod-16 is not one this libtpu knows" in compiled(topology="v5litepod-16")["error"]
