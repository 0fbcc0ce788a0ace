"""`jaxpt export`: a bundle into a Hugging Face directory."""

import argparse
import json
import math
from collections.abc import Sequence

from jaxpt.bundles import open_bundle
from jaxpt.interop import export_bundle
from jaxpt.terminal import progress

HELP = "write a bundle as a Hugging Face model, bit for bit"

EPILOG = """\
example:
  jaxpt export --from=BUNDLE --to=HF_DIR
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and exports."""
    parser = argparse.ArgumentParser(
        "jaxpt export",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--from", dest="source", required=True, metavar="BUNDLE")
    parser.add_argument("--to", dest="target", required=True, metavar="HF_DIR")
    parser.add_argument("--family", help="model_type to write; default: the one it came from, else what fits")
    args = parser.parse_args(list(argv))
    specs = open_bundle(args.source).specs
    with progress(sum(math.prod(s.pieces) for s in specs.values()), "export", "tensor") as bar:
        target = export_bundle(args.source, args.target, args.family, report=bar.update)
    family = json.loads((target / "config.json").read_text(encoding="utf-8"))["model_type"]
    print(f"{target} ({family})")
    return 0
