"""`jaxpt sweep`: many runs of one config that differ in some keys, and which of them is best."""

from collections.abc import Sequence

from jaxpt.cli.dispatch import Parser
from jaxpt.commands.train import open_plan
from jaxpt.errors import JaxptError
from jaxpt.sweeps.flags import add_arguments
from jaxpt.sweeps.over import combinations, parse_over
from jaxpt.sweeps.points import make_points
from jaxpt.sweeps.results import LOSS
from jaxpt.sweeps.running import report, run_points, tokens_of
from jaxpt.training.config import RunConfig

HELP = "train one config at many values of some keys, each a run of its own; which loss falls fastest"

EPILOG = """\
example:
  jaxpt sweep --config=run.py --workdir=runs/sweep --over=optimizer.learning_rate=1e-3,4e-3 --over=seed=0,1 --dry_run
  jaxpt sweep --config=run.py --workdir=runs/drawn --over=optimizer.learning_rate=log:1e-4..1e-2 --random=2 \\
    --tokens="8k tokens"

KEY=a,b,c gives values, KEY=log:LOW..HIGH:COUNT so many evenly spaced ones, KEY=log:LOW..HIGH with --random=N draws; for
log also uniform and int. Any --config.key=value holds for all points. Started again, a sweep runs what is not finished;
with more values it grows. Results stand in WORKDIR/results.jsonl, pictures in WORKDIR/report. Exit codes: 0 all done,
75 start again (after a signal), 1 an error, or a point that failed while the others were done.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, checks all points, runs them."""
    parser = Parser("jaxpt sweep", HELP, EPILOG, lambda: RunConfig)
    add_arguments(parser)
    parser.add_argument("--over", action="append", required=True, metavar="KEY=VALUES", help="a key and its values")
    parser.add_argument(
        "--combine", choices=("grid", "list"), default="grid", help="each with each, or all i-th together"
    )
    parser.add_argument("--random", type=int, metavar="N", help="N points drawn at random from values and ranges")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    args, overrides = parser.parse_overrides(argv)
    if args.random is not None and args.random < 1:
        raise JaxptError(f"--random={args.random}: give the number of points to draw")
    overs = [parse_over(text) for text in args.over]
    chosen = combinations(overs, "random" if args.random else args.combine, args.random or 0, args.seed)
    points = make_points(args.config, overrides, chosen, tokens_of(args), print)
    done = run_points(args, "sweep", points, LOSS, open_plan)
    return done if isinstance(done, int) else report(args, done)
