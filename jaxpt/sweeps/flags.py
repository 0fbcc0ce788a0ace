"""The flags that all sweeps take: where, on how many tokens, by which metric, and who runs the points."""

from jaxpt.cli.dispatch import Parser


def add_arguments(parser: Parser) -> None:
    """Adds what all sweeps take: where, on how many tokens, by which metric, and who runs the points."""
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="as that of jaxpt train")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="folder of the sweep, new or to go on with")
    parser.add_argument("--tokens", metavar="N", help='budget of a point, as "10B tokens"; left out: the config\'s own')
    parser.add_argument(
        "--metric", help="what is compared, lower is better; NAME/* is a mean, {KEY} the value of a key"
    )
    parser.add_argument("--halving", type=int, metavar="N", help="one of N points goes on, with N times the tokens")
    parser.add_argument("--first_rung", metavar="N", help='least budget of halving\'s first rung, as "1B tokens"')
    parser.add_argument("--devices", metavar="A,B,…", help="points run side by side, each on a device of its own")
    parser.add_argument("--devices_per_point", type=int, default=1, metavar="N", help="so many of them together")
    parser.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="run the points on a Ray cluster")
    parser.add_argument("--resources", default="CPU=1", metavar="K=N,…", help="of Ray, for a point: CPU=8,GPU=1")
    parser.add_argument("--dry_run", action="store_true", help="print the points and their cost, run none")
