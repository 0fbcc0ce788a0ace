"""`jaxpt report`: the page of a run, also while it runs."""

from collections.abc import Sequence

from jaxpt.cli.dispatch import Parser
from jaxpt.reporting import write_report

HELP = "write a run's report: loss per source, learning rate, mixture, throughput"

EPILOG = """\
example:
  jaxpt report --workdir=runs/a
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and writes the report."""
    parser = Parser("jaxpt report", HELP, EPILOG)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a run directory")
    args = parser.parse_args(list(argv))
    print(write_report(args.workdir))
    return 0
