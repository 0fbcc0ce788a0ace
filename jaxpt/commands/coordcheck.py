"""`jaxpt coordcheck`: do sizes of activations, and the best learning rate, stay as the model of a config gets wider?"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.commands.train import open_plan
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.planning.coordinates import Coordinates, check_coordinates, control_failures, failures, wider_is_worse
from jaxpt.planning.sweep import Sweep, sweep
from jaxpt.planning.widths import PARAMETERISATIONS, Wide, at_width
from jaxpt.reporting.widths import draw_coordinates, draw_sweep
from jaxpt.training.config import RunConfig

HELP = "check µP: sizes of activations over width, its negative control; --sweep: the best learning rate over width"

EPILOG = """\
example:
  jaxpt coordcheck --config=configs/tiny.py:PACKED_SOURCE --output=check --config.mup.base.embed=64 \\
      --config.mup.base.heads=2 --config.mup.base.mlp=176 --config.mup.base.layers=4 \\
      --widths=64,128,256 --layers=1 --steps=4 --seeds=2 --length=64 --rate=5e-3

The config's `mup` section says what is checked, and its base shape is what is made wider. Data is the first source of
the first stage. Exit codes: 0 the check has passed, 1 it has not (each reason in a line) or could not be made.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, measures both parameterisations, writes figures and numbers, prints the verdict."""
    parser = Parser("jaxpt coordcheck", HELP, EPILOG, lambda: RunConfig)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]")
    parser.add_argument("--output", required=True, metavar="DIR", help="where pictures and numbers are written")
    parser.add_argument("--widths", metavar="W,W,…", help="of the residual stream; left out: the base's × 1, 2, 4, 8")
    parser.add_argument("--layers", type=int, help="how many of the model's layers; left out: at most 2")
    parser.add_argument("--steps", type=int, default=5, help="on one batch, the same at each step")
    parser.add_argument("--seeds", type=int, default=3, help="first parameters, for each width")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate of the check, deliberately large")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row, at most the source's")
    parser.add_argument("--sweep", action="store_true", help="train at each width and learning rate besides")
    parser.add_argument("--rates", default="5e-4,1e-3,2e-3,4e-3,8e-3,1.6e-2,3.2e-2", help="peak rates of the sweep")
    parser.add_argument("--sweep_steps", type=int, default=300, help="steps of each of its runs")
    args, overrides = parser.parse_overrides(argv)
    config = load(RunConfig, args.config, overrides)
    models, rows = _setting(config, args)
    out = Path(args.output)
    out.mkdir(parents=True, exist_ok=True)
    lines = _check(config, args, models, rows(0), out)
    if args.sweep:
        _sweep(config, args, models, rows, out)
    for line in lines:
        print(line)
    print(
        "the coordinate check has failed" if lines else "the coordinate check has passed, its control fails as it must"
    )
    return 1 if lines else 0


def _setting(
    config: RunConfig, args: argparse.Namespace
) -> tuple[Mapping[str, list[Wide]], Callable[[int], Mapping[str, np.ndarray]]]:
    """The models of each parameterisation, and the rows of each step."""
    if config.mup is None:
        raise JaxptError(f"{args.config} has no section mup; set --config.mup.base.embed and the other base lengths")
    if config.init_from:
        raise JaxptError("config.init_from is set; the check draws its models, remove it and describe config.model")
    plan, _, _ = open_plan(config)
    name = next(iter(plan.stages[0].weights))
    source, model, base = plan.sources[name], config.model.model(None), config.mup.base.embed
    assert base is not None
    widths = _numbers(args.widths, int, "--widths") if args.widths else [base * k for k in (1, 2, 4, 8)]
    if len(widths) < 2 or min(args.steps, args.seeds, args.rows, args.length, args.sweep_steps) < 1 or args.steps < 4:
        raise JaxptError("give at least two --widths, four --steps, and 1 of --seeds, --rows, --length, --sweep_steps")
    layers = args.layers or min(2, len(model.layers))
    models = {kind: [at_width(model, config.mup, w, layers, kind) for w in widths] for kind in PARAMETERISATIONS}
    if source.rows < args.rows:
        raise JaxptError(f"config.sources.{name} has {source.rows} rows, --rows={args.rows} takes more")

    def rows(step: int) -> Mapping[str, np.ndarray]:
        read = source.read([(step * args.rows + i) % source.rows for i in range(args.rows)])
        return {key: np.asarray(value)[:, : args.length] for key, value in read.items()}

    return models, rows


def _numbers(text: str, kind: Callable[[str], float], flag: str) -> list:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise JaxptError(f"{flag}={text} must be numbers with commas between them") from None


def _check(
    config: RunConfig,
    args: argparse.Namespace,
    models: Mapping[str, list[Wide]],
    batch: Mapping[str, np.ndarray],
    out: Path,
) -> list[str]:
    """Measures, writes `coordinates.png` and `coordinates.json`, prints slopes; returns why it has failed."""
    found: dict[str, Coordinates] = {}
    with progress(sum(map(len, models.values())), "coordinate check", "model") as bar:
        for kind, wides in models.items():
            seeds = range(config.seed, config.seed + args.seeds)
            found[kind] = check_coordinates(
                wides, config.optimizer, batch, args.steps, seeds, args.rate, config.compute, bar.update
            )
    figure = draw_coordinates(found)
    figure.savefig(out / "coordinates.png", dpi=110)
    plt.close(figure)
    numbers = {kind: _plain(c) for kind, c in found.items()}
    (out / "coordinates.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for kind, c in found.items():
        steps = range(args.steps + 1)
        rows = [[site, *(c.slope(site, t) for t in steps), c.slope(site, args.steps, moved=True)] for site in c.size]
        print(table([f"{kind}: slope over width", *(f"step {t}" for t in steps), "change"], rows), "\n")
    wrong = [f"µP: {line}" for line in failures(found["mup"]) + wider_is_worse(found["mup"])]
    return wrong + [f"control: {line}" for line in control_failures(found["standard"])]


def _sweep(
    config: RunConfig,
    args: argparse.Namespace,
    models: Mapping[str, list[Wide]],
    rows: Callable[[int], Mapping[str, np.ndarray]],
    out: Path,
) -> None:
    """Trains, writes `sweep.png` and `sweep.json`, prints the best rates."""
    rates = _numbers(args.rates, float, "--rates")
    seeds = list(range(config.seed, config.seed + args.seeds))
    found: dict[str, Sweep] = {}
    with progress(sum(map(len, models.values())) * len(rates) * len(seeds), "sweep", "run") as bar:
        for kind, wides in models.items():
            found[kind] = sweep(
                wides, config.optimizer, rows, args.sweep_steps, rates, seeds, config.compute, bar.update
            )
    figure = draw_sweep(found)
    figure.savefig(out / "sweep.png", dpi=110)
    plt.close(figure)
    numbers = {k: {"widths": s.widths, "rates": s.rates, "loss": s.loss.tolist()} for k, s in found.items()}
    (out / "sweep.json").write_text(json.dumps(numbers, indent=1) + "\n")
    lines = [
        [kind, width, f"{2**best.log2:.2e}{' (edge)' if best.at_edge else ''}", best.loss, more]
        for kind, s in found.items()
        for width, best, more in zip(s.widths, s.best(), s.transferred())
    ]
    print(table(["", "width", "best rate", "loss", "nats lost at the narrowest one's"], lines), "\n")
    print("\n".join(f"{kind}: best rates lie within {s.spread:.2f} octaves" for kind, s in found.items()), "\n")


def _plain(c: Coordinates) -> dict[str, object]:
    tables = {name: {site: a.tolist() for site, a in getattr(c, name).items()} for name in ("size", "moved")}
    return {"widths": c.widths, **tables, "loss": c.loss.tolist()}
