"""`jaxpt-data pack`: text or tokenized documents into packed sources."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from data_tools.io.outputs import check_outputs
from jaxpt import tokenizers
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.data.build import Packing, build, build_tokenized
from jaxpt.data.origins import open_origin
from jaxpt.data.packed import PackedSource
from jaxpt.data.packing import PACKERS
from jaxpt.data.tokenize import Selection
from jaxpt.data.tokenized import NOTE, TokenizedDocuments
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, beside

HELP = "text or tokenized documents into packed sources of fixed-length token rows"

EXAMPLE = """examples:
  jaxpt-data pack --input='text/*.jsonl.gz' --output=packed/web --tokenizer=TOKENIZER --sequence_length=4096
  jaxpt-data pack --input=text --output=packed/web_held_out --tokenizer=T --sequence_length=4096 \\
                  --part=held_out --held_out=0.01
  jaxpt-data pack --input=tokens --output=packed --sequence_length=4096 --by=source"""


def parser() -> Parser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data pack", HELP, EXAMPLE)
    out.add_argument(
        "--input", required=True, help="JSONL, Parquet (globs, comma-separated), or the folder that `tokenize` wrote"
    )
    out.add_argument("--output", required=True, help="folder of the packed source; must not exist")
    out.add_argument("--sequence_length", "--sequence-length", type=int, required=True, help="tokens in a row")
    out.add_argument("--tokenizer", help="directory, .model or tokenizer.json; not for tokenized documents")
    out.add_argument("--by", help="a kept field of tokenized documents: one packed source for each value of it")
    out.add_argument("--packer", default="best_fit", choices=tuple(PACKERS))
    out.add_argument("--kind", default="text", choices=("text", "chat"), help="chat: loss on the assistant's turns")
    out.add_argument("--template", help="of a chat: plain, chatml or a .jinja file (default: the tokenizer's)")
    out.add_argument("--text_field", "--text-field", help="where the text or the messages are (text, messages)")
    out.add_argument("--bos", action="store_true", help="begin each document with BOS")
    out.add_argument("--no_eos", "--no-eos", action="store_true", help="do not end each document with EOS")
    out.add_argument("--part", default="all", choices=("all", "train", "held_out"))
    out.add_argument("--held_out", "--held-out", type=float, default=0.0, help="share of documents held out")
    out.add_argument("--group_field", "--group-field", help="hold out by this field's value instead of by document")
    out.add_argument("--skip_existing", action="store_true", help="leave packed sources that are whole as they are")
    out.add_argument(
        "--take_over", action="store_true", help="a writer of --output on another machine is gone for good"
    )
    out.add_argument("--format", default="packed", choices=("packed", "tfds"), help="tfds: also as a TFDS data set")
    return out


def main(argv: Sequence[str]) -> int:
    """Parses arguments and packs."""
    args = parser().parse_args(list(argv))
    if args.sequence_length < 2:
        raise JaxptError(f"--sequence_length={args.sequence_length} must be at least 2")
    check_outputs({"--input": args.input}, {"--output": args.output})
    if "://" in args.output:
        raise JaxptError(f"--output={args.output} must be a local folder; copy the packed source there as it is")
    output = Path(args.output)
    with Lock(beside(output), output, "--output").acquire(args.take_over):
        return _pack(args)


def _pack(args: argparse.Namespace) -> int:
    tokenized = (Path(args.input) / NOTE).is_file() if "://" not in args.input else False
    made = _pack_tokenized(args) if tokenized else [_pack_text(args)]
    if args.format == "tfds":
        from data_tools.io.tfds_export import export  # TFDS is an extra

        for source in made:
            print(f"TFDS data set: {export(source)}")
    head = ["packed source", "rows", "tokens", "documents", "mean fill", "fingerprint"]
    print(table(head, [(str(s.path), s.rows, s.tokens, s.documents, s.mean_fill, s.fingerprint[:16]) for s in made]))
    return 0


def _pack_text(args: argparse.Namespace) -> PackedSource:
    if args.tokenizer is None:
        raise JaxptError(f"--tokenizer is missing; {args.input} holds text (only tokenized documents need none)")
    if args.by:
        raise JaxptError(f"--by={args.by} needs tokenized documents; run jaxpt-data tokenize first")
    packing = Packing(
        kind=args.kind,
        field=args.text_field,
        packer=args.packer,
        bos=args.bos or None,
        eos=False if args.no_eos else None,
        template=args.template,
        selection=Selection(args.part, args.held_out, args.group_field),
    )
    if _there(args, Path(args.output)):
        return PackedSource.open(args.output)
    origin = open_origin(args.input.split(",") if "," in args.input else args.input)
    tokenizer = tokenizers.load(args.tokenizer)
    with progress(origin.size, "pack", origin.unit, scale=True) as bar:
        report = _reporter(bar, lambda: origin.position)
        return build(origin, args.output, tokenizer, args.sequence_length, packing, report=report)


def _pack_tokenized(args: argparse.Namespace) -> list[PackedSource]:
    given = [name for name in ("template", "bos", "no_eos") if getattr(args, name)] + ["kind"] * (args.kind != "text")
    if given:
        raise JaxptError(f"--{given[0]} was decided when {args.input} was tokenized; give it to jaxpt-data tokenize")
    documents = TokenizedDocuments(args.input)
    if args.tokenizer and tokenizers.load(args.tokenizer).fingerprint != documents.facts["tokenizer_fingerprint"]:
        raise JaxptError(f"--tokenizer={args.tokenizer} is not the tokenizer of {args.input}; leave it out")
    selection = Selection(args.part, args.held_out, args.group_field)
    jobs: list[tuple[Path, tuple[str, str] | None]] = [(Path(args.output), None)]
    if args.by:
        jobs = [
            (Path(args.output) / name, (args.by, v))
            for name, v in _folders(documents.values(args.by, selection)).items()
        ]
    made = []
    with progress(documents.size * (args.part != "held_out"), "pack", "tok", scale=True) as bar:
        done = 0

        def report(count: int, tokens: int) -> None:
            nonlocal done
            done += count
            bar.set_postfix_str(f"{done:,} docs", refresh=False)
            bar.update(tokens)

        for folder, where in jobs:
            if _there(args, folder):
                made.append(PackedSource.open(folder))
                bar.update(made[-1].tokens)
                continue
            how = (args.sequence_length, args.packer, selection)
            made.append(build_tokenized(documents, folder, *how, where=where, report=report))
    return made


def _there(args: argparse.Namespace, folder: Path) -> bool:
    return args.skip_existing and (folder / "source.json").is_file()


def _folders(values: Sequence[str]) -> dict[str, str]:
    """Returns a folder's name for each value: letters, digits, dots and dashes of it."""
    out: dict[str, str] = {}
    for value in values:
        name = re.sub(r"[^\w.-]+", "_", value).strip("._") or "none"
        if name in out:
            raise JaxptError(f"--by: {value!r} and {out[name]!r} would both be packed into a folder {name}")
        out[name] = value
    return out


def _reporter(bar, position: Callable[[], int]) -> Callable[[int, int], None]:
    counts = {"docs": 0, "tok": 0}

    def report(documents: int, tokens: int) -> None:
        counts["docs"] += documents
        counts["tok"] += tokens
        bar.set_postfix_str(f"{counts['docs']:,} docs, {counts['tok']:,} tok", refresh=False)
        bar.update(max(position() - bar.n, 0))

    return report
