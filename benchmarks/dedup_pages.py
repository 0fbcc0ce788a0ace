"""Deduplicate real pages end to end by the command, start-up included: documents per CPU second of each checkout.

    python -m benchmarks.dedup_pages --text='noisy_web/*.jsonl.gz,domain_mix/*.jsonl.gz' --documents=20000 --rounds=5
    python -m benchmarks.dedup_pages --text=GLOBS --checkout=../base --checkout=. --pack=gz --pack=zst

A document is a run of paragraphs of real pages, 2.5 KB on average; 4 in 100 are a copy of an earlier one with some
words changed, 1 in 100 an exact copy. Checkouts and packings take turns, so that a noisy neighbour meets all of them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from data_tools.io.writers import LinesWriter
from jaxpt.cli.terminal import table
from jaxpt.data.text_files import list_files, read_documents

SHARDS = 4
LENGTH = 2500  # characters of a document, on average


def pieces(pattern: str) -> list[str]:
    """Returns the paragraphs of all texts, longer ones cut at a sentence."""
    out: list[str] = []
    for path in (path for part in pattern.split(",") for path in list_files(part)):
        for document in read_documents(path):
            for paragraph in str(document["text"]).split("\n"):
                sentences = paragraph.strip().split(". ")
                out += [". ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4) if sentences[i]]
    return out


def documents(parts: list[str], count: int) -> list[str]:
    """Returns the documents: paragraphs drawn without regard to their page, and copies."""
    rng = np.random.default_rng(0)
    out: list[str] = []
    for i in range(count):
        if i > 100 and i % 100 in (13, 33, 53, 73, 93):
            words = out[int(rng.integers(i))].split(" ")
            for place in rng.integers(0, len(words), 0 if i % 100 == 93 else max(len(words) // 100, 1)):
                words[place] = "changed"
            out.append(" ".join(words))
            continue
        text, length = [], rng.exponential(LENGTH)
        while sum(map(len, text)) < length or not text:
            text.append(parts[int(rng.integers(len(parts)))])
        out.append("\n".join(text))
    return out


def write(folder: Path, texts: list[str], pack: str) -> str:
    """Writes the shards and returns their pattern."""
    for number, part in enumerate(np.array_split(np.arange(len(texts)), SHARDS)):
        name = f"{number}.jsonl.{pack}"
        file = LinesWriter(folder / name, name)
        for i in part.tolist():
            file.write_value({"id": str(i), "text": texts[i], "url": f"https://example.org/{i}", "source": "web"})
        file.close()
    return f"{folder}/*.jsonl.{pack}"


def measure(checkout: str, pattern: str, engine: str) -> tuple[float, dict]:
    """Runs the command of a checkout; returns the CPU seconds of all that it started, and what it counted."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "data_tools", "dedup", f"--input={pattern}", f"--output={output}/out"]
        environment = {**os.environ, "PYTHONPATH": str(Path(checkout).resolve()), "OMP_NUM_THREADS": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, f"--engine={engine}"], check=True, capture_output=True, env=environment, cwd=checkout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        counts = json.loads((Path(output) / "out/dedup.json").read_text())["counts"]
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, counts


def main() -> None:
    """Runs and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="globs of JSON lines with a field text")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkout", action="append", help="whose code runs (repeated: in turns)")
    parser.add_argument("--pack", action="append", choices=("gz", "zst"), help="how the input is packed (repeated)")
    parser.add_argument("--engine", default="native")
    args = parser.parse_args()
    cases = [(c, p) for c in args.checkout or ["."] for p in args.pack or ["gz"]]
    seen: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        texts = documents(pieces(args.text), args.documents)
        patterns = {pack: write(Path(folder), texts, pack) for pack in {p for _, p in cases}}
        counts = {}
        for number in range(args.rounds + 1):  # the first round compiles and warms the file cache
            for case in cases:
                seconds, counts[case] = measure(case[0], patterns[case[1]], args.engine)
                seen[case] += [seconds] if number else []
    rows = []
    for case, seconds in seen.items():
        speeds = [args.documents / s for s in seconds]
        dropped = counts[case]["exact"] + counts[case]["near"]
        rows.append((*case, statistics.median(speeds), min(speeds), max(speeds), dropped))
    print(f"{args.documents:,} documents, {sum(map(len, texts)) / args.documents:,.0f} characters each")
    print(table(["checkout", "input", "documents per CPU second", "least", "most", "dropped"], rows))


if __name__ == "__main__":
    main()
