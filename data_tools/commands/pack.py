"""`jaxpt-data pack`: text or tokenized documents into a packed source."""

import argparse
from collections.abc import Sequence

from jaxpt import tokenizers
from jaxpt.data.build import Packing, build
from jaxpt.data.packing import PACKERS
from jaxpt.data.tokenize import Selection
from jaxpt.terminal import progress, table

HELP = "text files into a packed source of fixed-length token rows"

EPILOG = """\
example:
  jaxpt-data pack --input='text/*.jsonl.gz' --output=packed/web --tokenizer=TOKENIZER --sequence-length=4096
  jaxpt-data pack --input=text --output=packed/web_held_out --tokenizer=T --sequence-length=4096 \\
                  --part=held_out --held-out=0.01
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and packs."""
    parser = argparse.ArgumentParser(
        "jaxpt-data pack",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, help="JSONL (plain, gz, zst) or Parquet: file, directory or glob")
    parser.add_argument("--output", required=True, help="directory of the packed source; must not exist")
    parser.add_argument("--tokenizer", required=True, help="directory, .model or tokenizer.json")
    parser.add_argument("--sequence-length", type=int, required=True, help="tokens in a row")
    parser.add_argument("--packer", default="best_fit", help=f"one of {', '.join(PACKERS)}")
    parser.add_argument("--kind", default="text", choices=("text", "chat"), help="chat: loss on the assistant's turns")
    parser.add_argument("--template", help="of a chat: plain, chatml or a .jinja file (default: the tokenizer's)")
    parser.add_argument("--text-field", help="where the text or the messages are (default: text, messages)")
    parser.add_argument("--bos", action="store_true", help="begin each document with BOS")
    parser.add_argument("--no-eos", action="store_true", help="do not end each document with EOS")
    parser.add_argument("--part", default="all", help="all, train or held_out")
    parser.add_argument("--held-out", type=float, default=0.0, help="share of documents held out")
    parser.add_argument("--group-field", help="hold out by this field's value instead of by document")
    args = parser.parse_args(list(argv))
    if args.sequence_length < 2:
        parser.error(f"--sequence-length={args.sequence_length} must be at least 2")
    tokenizer = tokenizers.load(args.tokenizer)
    packing = Packing(
        kind=args.kind,
        field=args.text_field,
        packer=args.packer,
        bos=args.bos or None,
        eos=False if args.no_eos else None,
        template=args.template,
        selection=Selection(args.part, args.held_out, args.group_field),
    )
    with progress(0, "pack", "tok", scale=True) as bar:
        bar.total = None
        source = build(
            args.input,
            args.output,
            tokenizer,
            args.sequence_length,
            packing,
            report=lambda documents, tokens: bar.update(tokens) and None,
        )
    facts = [["rows", source.rows], ["tokens", source.tokens], ["documents", source.documents]]
    print(
        table(
            [str(source.path), ""], [*facts, ["mean fill", source.mean_fill], ["fingerprint", source.fingerprint[:16]]]
        )
    )
    return 0
