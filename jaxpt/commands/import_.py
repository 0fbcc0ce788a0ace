"""`jaxpt import`: a Hugging Face directory into a bundle."""

from collections.abc import Sequence

from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress
from jaxpt.interop import import_bundle
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.models.size import param_count

HELP = "read a Hugging Face model into a bundle, bit for bit"

EPILOG = """\
example:
  jaxpt import --from=HF_DIR --to=bundles/a

A key of config.json that is not known stops the import, as it may change the forward pass; --inert=KEY says that it
does not.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and imports."""
    parser = Parser("jaxpt import", HELP, EPILOG)
    parser.add_argument("--from", dest="source", required=True, metavar="HF_DIR")
    parser.add_argument("--to", dest="target", required=True, metavar="BUNDLE")
    parser.add_argument("--family", help="package.module:FAMILY, a family of your own that reads the directory")
    parser.add_argument(
        "--inert",
        action="append",
        default=[],
        metavar="KEY",
        help="a key of config.json that jaxpt does not know and that does not change the forward pass: it is taken "
        "along, and written by an export; may be given again",
    )
    args = parser.parse_args(list(argv))
    checkpoint = HuggingFaceCheckpoint(args.source, args.family, args.inert)
    kinds = ", ".join(sorted(set(checkpoint.dtypes.values())))
    print(f"{args.source}: {checkpoint.family.model_type}, {param_count(checkpoint.config):,} parameters in {kinds}")
    with progress(len(checkpoint.places) + len(checkpoint.files), "import", "tensor or digest") as bar:
        print(import_bundle(args.source, args.target, bar.update, family=args.family, inert=args.inert))
    return 0
