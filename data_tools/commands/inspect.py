"""`jaxpt-data inspect`: what a packed source holds, or what the steps of a pipeline did and why."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_tools.io import made, storage
from data_tools.reports import report
from jaxpt import tokenizers
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.data.packed import PackedSource
from jaxpt.errors import JaxptError

HELP = "show what steps removed and why (with a page to look at), or what a packed source holds"

EPILOG = """\
example:
  jaxpt-data inspect packed/web --tokenizer=TOKENIZER --rows=2
  jaxpt-data inspect packed/web --verify
  jaxpt-data inspect data/web --html=report.html        # a workdir of run, or one step's folder
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and prints."""
    parser = Parser("jaxpt-data inspect", HELP, EPILOG)
    parser.add_argument("path", help="a packed source, a step's folder or a pipeline's workdir")
    parser.add_argument("--tokenizer", help="shows the rows as text")
    parser.add_argument("--rows", type=int, default=0, help="how many rows to show, evenly spaced")
    parser.add_argument("--verify", action="store_true", help="rehash every file")
    parser.add_argument("--html", help="of steps: write the report to this file (default: PATH/report.html)")
    parser.add_argument("--alarm", type=float, default=0.5, help="warn of a source that lost more than this share")
    args = parser.parse_args(list(argv))
    if not (Path(args.path) / "source.json").is_file() and (steps := report.look(args.path)):
        return show_steps(args, steps)
    source = PackedSource.open(args.path)
    print(describe(source))
    if args.verify:
        source.verify()
        print("every file is as it was packed")
    if args.rows:
        print(show_rows(source, args.rows, args.tokenizer))
    return 0


def show_steps(args: argparse.Namespace, steps: Sequence[report.Seen]) -> int:
    """Prints what each rule took out of each source, the alarms last, and writes the page."""
    print(table(["step", "source", "rule", "documents", "words", "of its words"], report.rows(steps)))
    print(*report.alarms(steps, args.alarm), sep="\n")
    file = args.html or storage.join(args.path, "report.html")
    made.check_file(file, report.MARK)
    with storage.new_file(file) as new:
        new.write_text(report.page(steps, str(args.path), args.alarm), encoding="utf-8")
    print(f"report: {file}")
    return 0


def describe(source: PackedSource) -> str:
    """Returns a packed source's counts and options as a table."""
    facts = [[k, source.facts[k]] for k in ("rows", "sequence_length", "tokens", "documents", "vocab_size", "dtype")]
    facts += [["mean fill", source.mean_fill], ["fingerprint", source.fingerprint[:16]]]
    facts += [["tokenizer", source.tokenizer_fingerprint[:16]]]
    facts += [[k, str(v)] for k, v in source.facts["options"].items()]
    return table([str(source.path), ""], facts)


def show_rows(source: PackedSource, count: int, tokenizer: str | None) -> str:
    """Returns `count` rows, their segments as text (as ids without a tokenizer).

    Raises:
        JaxptError: the tokenizer is not the one the source was packed with.
    """
    words = tokenizers.load(tokenizer) if tokenizer else None
    if words is not None and words.fingerprint != source.tokenizer_fingerprint:
        raise JaxptError(f"--tokenizer={tokenizer} is not the tokenizer {source.path} was packed with")
    lines = []
    for row in np.unique(np.linspace(0, source.rows - 1, min(count, source.rows)).astype(int)):
        batch = source.read([row])
        documents = source.row_documents(row)
        lines.append(f"\nrow {row}: {int(batch['segment_ids'].max())} segments")
        for segment, document in enumerate(documents, 1):
            ids = batch["tokens"][0][batch["segment_ids"][0] == segment]
            text = repr(words.decode(ids[:60]))[1:-1] if words else " ".join(map(str, ids[:24]))
            lines.append(f"  {document.hex()[:12]}  {len(ids):>6,} tokens  {text[:150]}")
    return "\n".join(lines)
