"""`jaxpt report`: the page of a run, also while it runs."""

import argparse
from collections.abc import Sequence

from jaxpt.reporting import write_report

HELP = "write a run's report: loss per source, learning rate, mixture, throughput"

EPILOG = """\
example:
  jaxpt report --workdir=runs/a
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and writes the report."""
    parser = argparse.ArgumentParser(
        "jaxpt report",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a run directory")
    print(write_report(parser.parse_args(list(argv)).workdir))
    return 0
