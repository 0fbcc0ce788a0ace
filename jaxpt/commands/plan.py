"""`jaxpt plan`: would its data suffice, would this run fit that pod? Compiles its step without a TPU."""

import time
from collections.abc import Sequence

import jax

from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.commands.train import open_plan
from jaxpt.config.file import load
from jaxpt.data.seen import in_common
from jaxpt.models.size import param_count
from jaxpt.planning import compile_step, topology_devices
from jaxpt.sharding import make_mesh
from jaxpt.training.branching import open_branch
from jaxpt.training.config import RunConfig
from jaxpt.training.feed import make_feed
from jaxpt.training.kernels import kernel_lines
from jaxpt.training.overview import overview
from jaxpt.training.run_plan import RunPlan, continued

HELP = "count a run's data, compile its step for a TPU pod that is not there: memory per device, collectives"

EPILOG = """\
example:
  jaxpt plan --config=configs/anneal_small.py:TEXT --config.tokenizer=TOKENIZER
  jaxpt plan --config=configs/tiny.py:PACKED_SOURCE --topology=v5e:4x4 --config.sharding.mesh.fsdp=16
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, counts the data, compiles each stage's step and prints what it takes."""
    parser = Parser("jaxpt plan", HELP, EPILOG, lambda: RunConfig)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
    parser.add_argument(
        "--topology", help="for instance v5e:4x4, v5p:2x2x4, v6e:16x16; without it only data is counted"
    )
    args, overrides = parser.parse_overrides(argv)
    jax.config.update("jax_platforms", "cpu")  # compiling needs no device, and looking for one is slow and noisy
    config = load(RunConfig, args.config, overrides)
    devices = topology_devices(args.topology) if args.topology else []
    plan, start, _ = open_plan(config)
    print(overview(plan))
    saved = open_branch(config).run if config.branch_from else None
    make_feed(continued(plan, saved) if saved else plan, saved, start.ledger if start else [], log=print)
    for a, b, count in in_common(plan.sources):
        print(f"sources {a} and {b} hold {count:,} documents in common; pack other parts of the text in each (--part)")
    print_kernels(plan, devices or jax.devices()[:1])
    if not devices:
        return 0
    print(f"{param_count(plan.model):,} parameters on {len(devices)} x {devices[0].device_kind}")
    rows = []
    for i, stage in enumerate(plan.stages):
        began = time.monotonic()
        got = compile_step(plan, devices, i)
        sizes = [round(n / 2**20, 1) for n in (got.arguments, got.frozen, got.temporary, got.peak)]
        collectives = ", ".join(f"{n} {kind}" for kind, n in sorted(got.collectives.items()))
        rows.append([stage.config.name, *sizes, round(time.monotonic() - began, 1), collectives])
    print(
        table(["stage", "state MiB", "of it frozen", "temporary MiB", "peak MiB", "compiled in s", "collectives"], rows)
    )
    return 0


def print_kernels(plan: RunPlan, devices: Sequence[jax.Device]) -> None:
    """Prints which kernel computes the attention of each layer on such devices, and why none that comes before it."""
    mesh = make_mesh({"fsdp": -1}, devices)
    lines = [line for stage in plan.stages for line in kernel_lines(plan, stage, mesh)]
    print("\n".join(dict.fromkeys(lines)))
