"""`jaxpt export`: a bundle or a trained run into a Hugging Face directory."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from jaxpt import api
from jaxpt.bundles import open_bundle
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress
from jaxpt.errors import JaxptError
from jaxpt.interop import export_bundle, export_form
from jaxpt.interop.exporting import own_family
from jaxpt.interop.find_family import family_named, holding
from jaxpt.interop.importing import has_tokenizer

HELP = "write a bundle or a run as a Hugging Face model, bit for bit"

EPILOG = """\
example:
  jaxpt export --from=BUNDLE --to=exported
  jaxpt export --from=runs/a --to=run_exported --dtype=bfloat16

--mean writes the mean of the parameters that a run with config.averaging keeps, instead of its parameters.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and exports."""
    parser = Parser("jaxpt export", HELP, EPILOG)
    parser.add_argument(
        "--from", dest="source", required=True, metavar="PATH", help="bundle, run or RUN/checkpoints/STEP"
    )
    parser.add_argument("--to", dest="target", required=True, metavar="HF_DIR")
    parser.add_argument(
        "--family", help="model_type to write, or package.module:FAMILY; default: the one it came from, else what fits"
    )
    parser.add_argument("--dtype", help="cast to float32, bfloat16 or float16; default: as stored")
    parser.add_argument("--mean", action="store_true", help="of a run: the mean of its parameters (config.averaging)")
    args = parser.parse_args(list(argv))
    kind = api.kind_of(args.source)
    if kind == "hugging_face":
        raise JaxptError(f"--from={args.source} is a Hugging Face directory already; import it first to change it")
    if Path(args.target).exists():
        raise JaxptError(f"--to={args.target} exists; remove it or choose another path")
    if args.family is not None:
        family_named(args.family)
    if args.mean and kind == "bundle":
        raise JaxptError(f"--mean: {args.source} is a bundle, only runs keep a mean; leave --mean out")
    # a checkpoint is verified, hence read, as a whole
    held = None if kind == "bundle" else api.load(args.source, mean=args.mean)
    facts = open_bundle(args.source) if held is None else held
    form = export_form(facts.config, facts.lineage, args.family)
    own = own_family(facts.lineage)
    if args.family is None and own is not None and own != form.family.model_type:
        print(holding(facts.config, own))  # with the reason why it is another
    for fact in form.folded:
        print(f"{form.family.model_type} has no key for it: {fact}")
    with progress(sum(math.prod(s.pieces) for s in form.specs.values()), "export", "tensor") as bar:
        target = export_bundle(held or args.source, args.target, args.family, dtype=args.dtype, report=bar.update)
    family = json.loads((target / "config.json").read_text(encoding="utf-8"))["model_type"]
    print(f"{target} ({family})")
    if not has_tokenizer(target):
        print(f"{args.source} has no tokenizer, so {target} holds none either; copy one there, or train with one")
    return 0
