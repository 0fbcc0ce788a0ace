"""`jaxpt schedule`: what a plan does with learning rate, batch size, sequence length and mixture, before it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from jaxpt.checkpoints.run_item import RunItem
from jaxpt.cli.dispatch import Parser
from jaxpt.config.file import load
from jaxpt.data.weights import SIZE, flat_weights
from jaxpt.errors import JaxptError
from jaxpt.files.partial import writes
from jaxpt.reporting.planned import THEMES, PlanOutline, draw, show
from jaxpt.training.branching import open_branch
from jaxpt.training.config import RunConfig
from jaxpt.training.history import newest_saved, read_legs, whole
from jaxpt.training.reached import new_segment, outlines, reached
from jaxpt.training.sources import open_sources

HELP = "draw a plan before it runs: learning rate, batch size, sequence length and mixture over its tokens"

EPILOG = """\
example:
  jaxpt schedule --config=configs/anneal_qwen2_5.py
  jaxpt schedule --config=run.py --picture=schedule.png --theme=dark --config.stages[0].schedule.name=cosine

No data and no model is opened (only where a mixture goes by the size of its sources). With --workdir it shows how a run
would go on from its newest checkpoint under this config, and what would change.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and draws."""
    parser = Parser("jaxpt schedule", HELP, EPILOG, lambda: RunConfig)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="Python file with get_config()")
    parser.add_argument("--workdir", metavar="DIR", help="a run that would go on with this config")
    parser.add_argument("--picture", metavar="FILE", help="draw it into this file, for instance schedule.png or .svg")
    parser.add_argument("--theme", default="light", help="of the picture: light (the default) or dark")
    args, overrides = parser.parse_overrides(argv)
    if args.theme not in THEMES:
        raise JaxptError(f"--theme={args.theme} is not one of {', '.join(THEMES)}")
    if args.picture and Path(args.picture).suffix not in (".png", ".svg", ".pdf"):
        raise JaxptError(f"--picture={args.picture} must end with .png, .svg or .pdf")
    config = load(RunConfig, args.config, overrides)
    saved = newest_saved(Path(args.workdir)) if args.workdir else None
    if args.workdir and saved is None:
        raise JaxptError(f"--workdir={args.workdir} has no checkpoint that can be read; leave it out for a new run")
    if saved is None and config.branch_from:
        saved = open_branch(config).run
    plan = planned(config, saved)
    for i, stage in enumerate(plan.stages):
        if saved and (line := new_segment(i, stage, saved)):
            print(line)
    print(show(plan))
    if args.picture:
        figure = draw(plan, args.theme)
        with writes(args.picture):
            figure.savefig(args.picture, dpi=120)
        plt.close(figure)
        print(args.picture)
    return 0


def planned(config: RunConfig, saved: RunItem | None = None) -> PlanOutline:
    """Returns what there is to draw of a run: a new one, or one that goes on from a checkpoint.

    Raises:
        JaxptError: a schedule that does not fit its stage; nothing is left of the run; a source that cannot be opened,
            where a mixture needs its size.
    """
    past = read_legs(saved, config.stages) if saved else ()
    stages = outlines(config, past, reached(saved, past), saved.get("branch") if saved else None)
    first = past[-1].stop if past else 0
    if stages[-1].whole[1] <= first:
        raise JaxptError(
            f"nothing is left of the run: all {first:,} steps are done; lengthen the last stage or add one"
        )
    return PlanOutline(whole(config.stages, past), stages, _shares(config), first)


def _shares(config: RunConfig) -> list[Mapping[str, float]]:
    """The share of each source in each stage, as the stage counts them."""
    sizes = None
    if any(SIZE in str(stage.mixture) for stage in config.stages):
        sources, _ = open_sources(config, None)
        sizes = {name: float(source.rows) for name, source in sources.items()}
    out: list[Mapping[str, float]] = []
    for i, stage in enumerate(config.stages):
        weights = flat_weights(stage.mixture, sizes, f"config.stages[{i}].mixture")
        total = sum(weights.values())
        out.append({name: weight / total for name, weight in weights.items()})
    return out
