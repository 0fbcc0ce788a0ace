"""`jaxpt-data tokenize` and `pack` against the tokenizer library's own batch call, on the same text.

`python -m benchmarks.tokenize --text=GLOB --tokenizer=TOKENIZER` encodes all texts in one call of the library (they lie
in memory, all cores), then tokenizes and packs them from compressed files, reading and writing included; in turns,
medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from data_tools.commands import pack, tokenize
from data_tools.shards.records import open_shards
from jaxpt import tokenizers
from jaxpt.cli.terminal import table
from jaxpt.data.build import build


def timed(function: Callable[[], int]) -> tuple[float, float, int]:
    """Returns wall seconds, CPU seconds and tokens."""
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = function()
    return time.perf_counter() - wall, time.process_time() - cpu, tokens


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser("python -m benchmarks.tokenize", description=__doc__)
    parser.add_argument("--text", required=True, help="globs of JSONL files")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sequence_length", type=int, default=2048)
    args = parser.parse_args()
    tokenizer = tokenizers.load(args.tokenizer)
    texts = [row["text"] for shard in open_shards(args.text) for row in shard.rows()]
    times: dict[str, list[tuple[float, float, int]]] = {}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            out = Path(folder)

            def whole() -> int:
                return sum(map(len, tokenizer._encode(texts)))

            def text_to_packed(out: Path = out) -> int:
                return build(args.text.split(","), out / "a", tokenizer, args.sequence_length).tokens

            def tokenize_then_pack(out: Path = out) -> int:
                flags = [f"--input={args.text}", f"--output={out}/t", f"--tokenizer={args.tokenizer}"]
                tokenize.main(flags)
                pack.main([f"--input={out}/t", f"--output={out}/b", f"--sequence_length={args.sequence_length}"])
                return 0

            for function in (whole, text_to_packed, tokenize_then_pack):
                times.setdefault(function.__name__, []).append(timed(function))
    tokens = times["whole"][0][2]
    rows = []
    for name, measured in times.items():
        wall = statistics.median(m[0] for m in measured)
        cpu = statistics.median(m[1] for m in measured)
        ratio = [statistics.median(a[k] / b[k] for a, b in zip(times["whole"], measured)) for k in (0, 1)]
        rows.append((name.replace("_", " "), tokens / wall, tokens / cpu, *ratio))
    print(
        f"{len(texts):,} texts, {sum(len(t.encode()) for t in texts):,} bytes, {tokens:,} tokens; {tokenizer.files[0]}"
    )
    print(table(["", "tokens/s", "tokens/CPU s", "of the library, wall", "of the library, CPU"], rows))


if __name__ == "__main__":
    main()
