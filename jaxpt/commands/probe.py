"""`jaxpt probe`: the best learning rate of each kind of data alone, and the annealing plan that follows from them."""

from collections.abc import Sequence

from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.commands.train import open_plan
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.sweeps.flags import add_arguments
from jaxpt.sweeps.plan_file import numbers, write_plan
from jaxpt.sweeps.points import check_points
from jaxpt.sweeps.probe import LEADS, best_rates, probe_points, stage_at, staged, table_rows
from jaxpt.sweeps.results import LOSS
from jaxpt.sweeps.running import report, run_points, tokens_given, tokens_of
from jaxpt.training.config import RunConfig

HELP = "find the best learning rate of each kind of data, and write the annealing stages in the order of those rates"

EPILOG = """\
example:
  jaxpt probe --config=kinds.py --workdir=runs/probe --rates=1e-3,4e-3,1.6e-2 --tokens="8k tokens"
  jaxpt train --config=runs/probe/plan.json --workdir=runs/annealed

A kind is an entry of the mixture of --stage: a source, or a group. Each is trained alone at each rate; its best rate is
a parabola's through the three points around the least loss. The plan has a stage for each kind, the highest rate first,
and lies in WORKDIR/plan.json. Started again, only what is not finished is run.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, runs the points, writes the plan."""
    parser = Parser("jaxpt probe", HELP, EPILOG, lambda: RunConfig)
    add_arguments(parser)
    parser.add_argument("--rates", required=True, metavar="A,B,C,…", help="peak learning rates to try, three or more")
    parser.add_argument("--batch_sizes", metavar="A,B,…", help="batch sizes to try as well; left out: the stage's own")
    parser.add_argument("--stage", type=int, default=0, metavar="N", help="whose mixture names the kinds; the pattern")
    parser.add_argument("--plan_tokens", metavar="N", help="of the whole plan; left out: as many as the config has")
    parser.add_argument("--plan_parts", metavar="A,B,…", help="each stage's part of them; left out: the same for all")
    parser.add_argument(
        "--leads", metavar="A,B,…", help="share of the leading kind in each stage (1, 0.6, 0.4, then all the same)"
    )
    args, overrides = parser.parse_overrides(argv)
    if args.halving:
        raise JaxptError("--halving would drop kinds of data whose loss is high; probe trains every point to its end")
    config = load(RunConfig, args.config, overrides)
    rates, sizes = numbers("--rates", args.rates), [int(n) for n in numbers("--batch_sizes", args.batch_sizes)]
    leads, parts = numbers("--leads", args.leads) or LEADS, numbers("--plan_parts", args.plan_parts)
    tokens = None if args.plan_tokens is None else tokens_given("--plan_tokens", args.plan_tokens)
    points = probe_points(config, args.stage, rates, sizes, tokens_of(args))
    check_points(points)
    done = run_points(args, "probe", points, LOSS, open_plan)
    if isinstance(done, int):
        return done
    if code := report(args, done):
        return code
    probes = best_rates(done.results, stage_at(config, args.stage).batch_size)
    print(table(*table_rows(probes)))
    write_plan(args.workdir, staged(config, args.stage, probes, tokens, leads, parts), open_plan, "--plan_tokens")
    return 0
