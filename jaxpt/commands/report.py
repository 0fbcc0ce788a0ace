"""`jaxpt report`: the page of a run, also while it runs; of several runs, one page that compares them."""

from collections.abc import Sequence

from jaxpt.cli.dispatch import Parser
from jaxpt.errors import JaxptError
from jaxpt.reporting import write_report
from jaxpt.reporting.comparison import write_comparison

HELP = "write a run's report: loss per source, learning rate, mixture, throughput; or compare several runs"

EPILOG = """\
example:
  jaxpt report runs/a
  jaxpt report runs/a runs/c RUN --output=comparison

The page of one run lies in its folder, in report/. That of several has curves over tokens, a table of ends and one of
the keys in which the configs differ.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and writes the report."""
    parser = Parser("jaxpt report", HELP, EPILOG)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run directories")
    parser.add_argument("--workdir", metavar="DIR", help="a run directory: the same as RUN")
    parser.add_argument(
        "--output", default="comparison", metavar="DIR", help="of several runs: where the page goes (comparison)"
    )
    args = parser.parse_args(list(argv))
    runs = [*([args.workdir] if args.workdir else []), *args.runs]
    if not runs:
        raise JaxptError("which run? give jaxpt report RUN, or several RUNs to compare them")
    print(write_report(runs[0]) if len(runs) == 1 else write_comparison(runs, args.output))
    return 0
