"""`jaxpt mix`: shares of a mixture, of all its entries or inside one group, compared on held-out text."""

from collections.abc import Sequence

from jaxpt.cli.dispatch import Parser
from jaxpt.commands.train import open_plan
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.evaluation.evaluation import prefix
from jaxpt.sweeps.flags import add_arguments
from jaxpt.sweeps.mix import drawn, entries, mix_points, simplex_grid, with_shares
from jaxpt.sweeps.plan_file import write_plan
from jaxpt.sweeps.points import check_points
from jaxpt.sweeps.running import report, run_points, tokens_of
from jaxpt.training.config import RunConfig

HELP = "try shares of a mixture, compare them on held-out text, and write the config with the best ones"

EPILOG = """\
example:
  jaxpt mix --config=kinds.py --workdir=runs/mix --parts=2 --tokens="8k tokens"
  jaxpt train --config=runs/mix/plan.json --workdir=runs/mixed

Training losses of different mixtures cannot be compared: the config needs an evaluation, of which the mean is taken
(or --metric). --parts=N tries all shares in steps of 1/N, --random=N draws. The config with the best shares lies in
WORKDIR/plan.json. Started again, only what is not finished is run.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, runs the points, writes the plan."""
    parser = Parser("jaxpt mix", HELP, EPILOG, lambda: RunConfig)
    add_arguments(parser)
    parser.add_argument("--stage", type=int, default=0, metavar="N", help="the stage whose mixture is tried")
    parser.add_argument("--group", metavar="NAME", help="shares inside this group; left out: of all entries")
    parser.add_argument("--parts", type=int, metavar="N", help="all shares in steps of 1/N")
    parser.add_argument("--random", type=int, metavar="N", help="N draws, even over all shares")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--least", type=float, default=0.0, help="least share of an entry")
    args, overrides = parser.parse_overrides(argv)
    if (args.parts is None) == (args.random is None) or min(args.parts or 1, args.random or 1) < 1:
        raise JaxptError("give one of --parts=N and --random=N, with N of 1 or more")
    config = load(RunConfig, args.config, overrides)
    if not args.metric and not config.evaluations:
        raise JaxptError(
            "mixtures are compared on held-out text, and the config has no evaluations; give "
            "--config.evaluations.bits_per_byte.documents.NAME=FILE for each kind of text"
        )
    count = len(entries(config, args.stage, args.group))
    grid = simplex_grid(count, args.parts, args.least) if args.parts else []
    points = mix_points(
        config, args.stage, args.group, grid or drawn(count, args.random, args.seed, args.least), tokens_of(args)
    )
    check_points(points)
    done = run_points(args, "mix", points, f"{prefix(next(iter(config.evaluations), ''))}*", open_plan)
    if isinstance(done, int):
        return done
    if code := report(args, done):
        return code
    if done.results[0].loss is None:
        raise JaxptError("no point ended with a finite loss; see the points' logs")
    best = {name: float(str(share)) for name, share in done.results[0].values.items()}
    write_plan(
        args.workdir, with_shares(config, args.stage, args.group, best), open_plan, "--config.stages[N].duration"
    )
    return 0
