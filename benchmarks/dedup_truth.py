"""Judge deduplication by an independent truth: real text, six kinds of noise, exact Jaccard of all pairs.

python -m benchmarks.dedup_truth --text='web/*.jsonl.gz,zh/*.jsonl.gz' --documents=3000 --copies=1500

The truth knows nothing of our signatures: words are split at white space (characters in Chinese), the 5-grams of every
text are Python sets, and every pair that shares one is counted. The noise is drawn over a wide range, not around our
thresholds: from a changed letter to texts that are hardly copies any more.
"""

import argparse
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from data_tools.dedup import verify
from data_tools.dedup.engine import open_engine
from data_tools.dedup.pipeline import DedupOptions, run
from data_tools.dedup.store import SignatureLayout
from data_tools.shards.records import open_shards
from jaxpt.cli.terminal import table

SENTENCE = re.compile(r"(?<=[.!?。！？\n])")


def split(text: str) -> list[str]:
    """White-space words, or characters where a text has hardly any spaces."""
    parts = text.lower().split()
    return parts if len(parts) * 20 > len(text) else list("".join(parts))


def letters(rng: np.random.Generator, text: str, strength: float) -> str:
    """Misread letters, as of a scanner."""
    out = list(text)
    for at in np.flatnonzero(rng.random(len(out)) < 0.02 * strength):
        if out[at].isalpha():
            out[at] = out[int(rng.integers(len(out)))]
    return "".join(out)


def cut_sentences(rng: np.random.Generator, text: str, strength: float) -> str:
    """Sentences left out here and there."""
    return "".join(s for s in SENTENCE.split(text) if rng.random() > 0.4 * strength)


def shuffle_paragraphs(rng: np.random.Generator, text: str, strength: float) -> str:
    """Some lines in another order."""
    lines = text.split("\n")
    for _ in range(int(len(lines) * strength)):
        a, b = rng.integers(len(lines), size=2)
        lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines)


def frame(rng: np.random.Generator, text: str, strength: float, others: Sequence[str]) -> str:
    """Another site's words before and after."""
    source = others[int(rng.integers(len(others)))]
    many = int(len(text) * 0.3 * strength)
    return f"{source[:many]}\n{text}\n{source[-many:]}" if many else text


def truncate(rng: np.random.Generator, text: str, strength: float) -> str:
    """Only the beginning."""
    return text[: int(len(text) * (1 - 0.6 * strength))]


def retype(rng: np.random.Generator, text: str, strength: float) -> str:
    """Other case and punctuation."""
    return re.sub(r"[,;:]", lambda m: "" if rng.random() < strength else m.group(), text.upper())


NOISE = {
    "letters": letters,
    "cut sentences": cut_sentences,
    "shuffle lines": shuffle_paragraphs,
    "frame": frame,
    "truncate": truncate,
    "retype": retype,
}


def noisy(rng: np.random.Generator, text: str, others: Sequence[str]) -> str:
    """One or two kinds of noise, each of a strength between almost none and a lot."""
    for name in rng.choice(list(NOISE), int(rng.integers(1, 3)), replace=False):
        more = (others,) if name == "frame" else ()
        text = NOISE[name](rng, text, float(10 ** rng.uniform(-2, 0)), *more)
    return text


class Texts:
    """A shard held in memory."""

    name, fingerprint = "texts", "0"

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def rows(self):
        """Yields the documents."""
        return ({"text": t} for t in self.texts)


def exact_pairs(sets: Sequence[set], least: float) -> dict[tuple[int, int], float]:
    """Returns the Jaccard similarity of every pair of at least `least`, by counting what they share, gram by gram."""
    owners = defaultdict(list)
    for i, grams in enumerate(sets):
        for gram in grams:
            owners[gram].append(i)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for ids in owners.values():
        for k, a in enumerate(ids):
            for b in ids[k + 1 :]:
                shared[a, b] += 1
    out = {}
    for (a, b), common in shared.items():
        jaccard = common / (len(sets[a]) + len(sets[b]) - common)
        if jaccard >= least:
            out[a, b] = jaccard
    return out


def grams(text: str, width: int = 5) -> set:
    """The set of runs of `width` words."""
    parts = split(text)
    return {tuple(parts[k : k + width]) for k in range(max(len(parts) - width + 1, min(len(parts), 1)))}


BINS = ((0.8, 0.85), (0.85, 0.9), (0.9, 0.95), (0.95, 1.01), (0.8, 1.01))


def measure(texts: Sequence[str], roots: Sequence[int], pairs: dict, sets: Sequence[set], strictness: str) -> dict:
    """Runs one level over the texts and holds it against the truth; `roots` says which text each one was made from."""
    with tempfile.TemporaryDirectory() as folder:
        options = DedupOptions(strictness=strictness)
        result = run([Texts(texts)], Path(folder), SignatureLayout(), open_engine("numpy"), options)
    rows = result.clusters.to_pylist()
    anchor = {r["unit"]: r["anchor"] for r in rows}
    cluster = {r["unit"]: r["cluster"] for r in rows}
    out = {"strictness": strictness, "dropped": sum(u != a for u, a in anchor.items())}
    for low, high in BINS:
        mine = [p for p, j in pairs.items() if low <= j < high]
        found = np.mean([cluster.get(a, a) == cluster.get(b, -b) for a, b in mine])
        gone = np.mean([anchor.get(a, a) != a or anchor.get(b, b) != b for a, b in mine])
        out[f"J {low}-{min(high, 1)}"] = {"pairs": len(mine), "compared": float(found), "one dropped": float(gone)}
    strangers = [(u, a) for u, a in anchor.items() if roots[u] != roots[a]]
    held = [len(sets[u] & sets[a]) / max(len(sets[u]), 1) for u, a in strangers]
    return {**out, "dropped for a text of another origin": len(strangers), "share of it there": held}


def main() -> None:
    """Runs all levels and prints a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="globs of JSONL files")
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--copies", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    shards = open_shards(args.text)
    each = args.documents // len(shards) + 1
    base = [r["text"][:20_000] for s in shards for r in islice(s.rows(), each) if len(r["text"]) >= 100]
    copies = [(noisy(rng, base[int(i)], base), int(i)) for i in rng.integers(0, len(base), args.copies)]
    copies = [(text, root) for text, root in copies if len(text) >= 50]
    texts = [*base, *(text for text, _ in copies)]
    roots = [*range(len(base)), *(root for _, root in copies)]
    sets = [grams(t) for t in texts]
    pairs = exact_pairs(sets, 0.8)
    natural = sum(b < len(base) for _, b in pairs)
    counts = f"{len(base):,} texts and {len(texts) - len(base):,} noisy copies"
    print(f"{counts}: {len(pairs):,} pairs of J >= 0.8, {natural:,} of them natural")
    for level in verify.LEVELS:
        seen = measure(texts, roots, pairs, sets, level)
        bins = [(name, *values.values()) for name, values in seen.items() if name.startswith("J ")]
        print(table([level, "pairs", "compared", "one dropped"], bins))
        print(json.dumps(seen))


if __name__ == "__main__":
    main()
