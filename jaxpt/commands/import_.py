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
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and imports."""
    parser = Parser("jaxpt import", HELP, EPILOG)
    parser.add_argument("--from", dest="source", required=True, metavar="HF_DIR")
    parser.add_argument("--to", dest="target", required=True, metavar="BUNDLE")
    parser.add_argument("--family", help="package.module:FAMILY, a family of your own that reads the directory")
    args = parser.parse_args(list(argv))
    checkpoint = HuggingFaceCheckpoint(args.source, args.family)
    kinds = ", ".join(sorted(set(checkpoint.dtypes.values())))
    print(f"{args.source}: {checkpoint.family.model_type}, {param_count(checkpoint.config):,} parameters in {kinds}")
    with progress(len(checkpoint.places) + len(checkpoint.files), "import", "tensor or digest") as bar:
        print(import_bundle(args.source, args.target, bar.update, family=args.family))
    return 0
