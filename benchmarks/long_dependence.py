"""Do the scores for long-range dependence distinguish real long texts from joined pieces?

python -m benchmarks.long_dependence --text='books/*.jsonl.gz' --repositories='code/*.jsonl.gz'

Three opponents for every real text, all of its length: pieces of many texts of the same kind in random order (the same
words, the same style, no common subject), the same for whole repositories with files of others, and the text with its
own paragraphs shuffled (which keeps its subjects: only order is lost).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from data_tools.longdoc.dependence import dependence
from data_tools.longdoc.repositories import join_repository
from data_tools.perplexity.ngram import NgramModel
from data_tools.shards.records import open_shards
from jaxpt.cli.terminal import table

CHARS = 60_000  # of each text


def pieces(text: str, separator: str) -> list[str]:
    """Paragraphs, or files of a joined repository."""
    return [p for p in text.split(separator) if p.strip()]


def mixed(rng: np.random.Generator, parts: Sequence[str], separator: str) -> str:
    """Pieces drawn at random until the length is reached."""
    out, size = [], 0
    while size < CHARS:
        out.append(parts[int(rng.integers(len(parts)))])
        size += len(out[-1])
    return separator.join(out)[:CHARS]


def better(real: Sequence[float], other: Sequence[float]) -> float:
    """Returns how often a real text scores above an opponent (area under the curve), ties as half."""
    a, b = np.asarray(real)[:, None], np.asarray(other)[None]
    return float((a > b).mean() + (a == b).mean() / 2)


def measure(texts: Sequence[str], separator: str, seed: int) -> dict:
    """Scores texts and their opponents against one background."""
    rng = np.random.default_rng(seed)
    texts = [t[:CHARS] for t in texts if len(t) >= CHARS]
    parts = [pieces(t, separator) for t in texts]
    everything = [p for own in parts for p in own]
    background = NgramModel.train(texts, 1)
    groups = {
        "real": texts,
        "pieces of many": [mixed(rng, everything, separator) for _ in texts],
        "own pieces shuffled": [separator.join(rng.permutation(np.array(own, object))) for own in parts],
    }
    gains = {n: [dependence(t, background=background).gain for t in group] for n, group in groups.items()}
    return {
        name: {
            "texts": len(found),
            "gain (median)": float(np.median(found)),
            **{f"gain > {least}": float(np.mean(np.asarray(found) > least)) for least in (0, 0.01, 0.02)},
            "real is above": better(gains["real"], found),
        }
        for name, found in gains.items()
    }


def main() -> None:
    """Prints a table per kind and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="globs of long texts")
    parser.add_argument("--repositories", help="globs of source files with repo and path")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    kinds = {"prose": ([r["text"] for s in open_shards(args.text) for r in s.rows()], "\n\n")}
    if args.repositories:
        repos: dict[str, dict[str, str]] = defaultdict(dict)
        for shard in open_shards(args.repositories):
            for row in shard.rows():
                repos[row["repo"]][row["path"]] = row["text"]
        joined = [d.text for files in repos.values() for d in join_repository(files, 2 * CHARS)]
        kinds["repositories"] = (joined, "\n\n")
    for kind, (texts, separator) in kinds.items():
        seen = measure(texts, separator, args.seed)
        print(table([kind, *next(iter(seen.values()))], [(name, *row.values()) for name, row in seen.items()]))
        print(json.dumps({kind: seen}))


if __name__ == "__main__":
    main()
