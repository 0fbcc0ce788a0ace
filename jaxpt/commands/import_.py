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
  jaxpt import --from=HF_DIR --to=BUNDLE
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and imports."""
    parser = Parser("jaxpt import", HELP, EPILOG)
    parser.add_argument("--from", dest="source", required=True, metavar="HF_DIR")
    parser.add_argument("--to", dest="target", required=True, metavar="BUNDLE")
    args = parser.parse_args(list(argv))
    found = HuggingFaceCheckpoint(args.source)
    kinds = ", ".join(sorted(set(found.dtypes.values())))
    print(f"{args.source}: {found.family.model_type}, {param_count(found.config):,} parameters in {kinds}")
    with progress(len(found.places) + len(found.files), "import", "tensor or digest") as bar:
        print(import_bundle(args.source, args.target, bar.update))
    return 0
