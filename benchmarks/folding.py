"""Other renderings, navigation and edited items: what deduplication and decontamination find of them on real text.

    python -m benchmarks.folding copies --data=FOLDER            copies found of 20 documents, by rendering
    python -m benchmarks.folding origins --data=FOLDER           stories of different origin dropped, by navigation
    python -m benchmarks.folding decontaminate --data=FOLDER     edited items found, and documents flagged wrongly

FOLDER holds JSON lines (gz): noisy_web/, chinese/, english/, code/, labelled/ and eval/.
"""

import argparse
import contextlib
import gzip
import io
import json
import random
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.decontaminate.gapped import GappedTable
from data_tools.decontaminate.index import Item, ItemIndex
from data_tools.dedup import minhash, verify
from data_tools.dedup.engine import open_engine
from data_tools.dedup.pipeline import DedupOptions, run
from data_tools.dedup.store import SignatureLayout
from jaxpt.cli.terminal import table

SETS = ("mmlu_dev_and_test_part", "cmmlu_dev_and_test_part", "gsm8k_test", "arc_piqa_winogrande_lambada_boolq")
SETS += ("hellaswag_subset", "humaneval", "mbpp")
Change = Callable[[str], str]


@dataclass(frozen=True)
class Shard:
    """Texts as a shard."""

    name: str
    texts: Sequence[str]

    @property
    def fingerprint(self) -> str:
        return self.name

    def rows(self) -> Iterator[dict[str, str]]:
        """Yields the records."""
        return ({"text": text} for text in self.texts)


def load(path: Path) -> list[str]:
    """Returns the texts of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def dropped(shards: Sequence[Shard], level: str) -> int:
    """Returns how many texts a level of strictness drops."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        result = run(shards, folder, SignatureLayout(), open_engine("numpy"), DedupOptions(level))
        return sum(len(result.dropped(number)) for number in result.numbers)


def between(mark: str, every: int) -> Change:
    """Returns a change that puts a mark behind every so manieth character."""
    return lambda t: "".join(c + (mark if i % every == 0 and c.isalnum() else "") for i, c in enumerate(t))


def ligatures(text: str) -> str:
    """Returns a text as a typesetter's PDF gives it."""
    for letters, joined in (("ffi", "ﬃ"), ("fi", "ﬁ"), ("fl", "ﬂ"), ("ff", "ﬀ")):
        text = text.replace(letters, joined)
    return text


def hyphenated(text: str, width: int = 40) -> str:
    """Returns a text in lines of `width` characters, longer words of lower case cut at line ends."""
    lines, line = [], ""
    for word in text.split():
        full = len(line) + len(word) + 1 > width
        if full and len(word) > 6 and word.isalpha() and word.islower():
            half = len(word) // 2
            lines.append(f"{line} {word[:half]}-")
            line = word[half:]
        elif full:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "\n".join([*lines, line])


def wrapped(text: str, width: int = 20) -> str:
    """Returns a text in lines of `width` characters, cut anywhere."""
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def copies(data: Path) -> None:
    """Prints how many of 20 copies in another rendering each level drops."""

    def han(text: str) -> bool:
        return sum("\u4e00" <= c <= "\u9fff" for c in text) > len(text) / 2

    def made(letters: str, length: int) -> list[str]:
        return ["".join(random.Random(i).choices(letters, k=length)) for i in range(20)]

    english = [t for t in load(data / "noisy_web/c4_demo.jsonl.gz") if 800 < len(t) < 4000][:20]
    pages = [t for t in load(data / "chinese/javaguide_md.jsonl.gz") if len(t) > 1500]
    chinese = [t[:3000] for t in pages if han(t[:3000])][:20]
    japanese = made(
        "がぎぐげござじずぜぞだばびぶべぼぱぴぷぺぽあいうえおかきくけこさしすせそなにぬねのカガキギ漢字日本語処理。",
        400,
    )
    korean = made("한국어문장은이렇게생겼습니다데이터가중요합니다 .", 600)
    decomposed: Change = lambda t: unicodedata.normalize("NFD", t)  # noqa: E731
    cases: list[tuple[str, list[str], Change]] = [
        ("English, soft hyphens", english, between("\u00ad", 5)),
        ("English, zero-width spaces", english, between("\u200b", 5)),
        ("English, U+2060", english, between("\u2060", 5)),
        ("English, ligatures", english, ligatures),
        ("English, hyphenated at 40 columns", english, hyphenated),
        ("Chinese, zero-width spaces", chinese, between("\u200b", 4)),
        ("Chinese, wrapped at 20 characters", chinese, wrapped),
        ("Japanese, NFD", japanese, decomposed),
        ("Korean, NFD", korean, decomposed),
    ]
    rows = []
    for name, texts, change in cases:
        shards = [Shard("a", texts), Shard("b", [change(t) for t in texts])]
        rows.append((name, len(texts), *(dropped(shards, level) for level in verify.LEVELS)))
    print(table(["rendering", "documents", *verify.LEVELS], rows))


def origins(data: Path) -> None:
    """Prints how many pages of different origin, within one site's navigation, each level drops."""
    news = [t for t in dict.fromkeys(load(data / "labelled/ag_news_test.jsonl.gz")[:4000]) if len(t.split()) >= 30]
    navigation = " ".join(load(data / "noisy_web/redpajama_c4-rp_1.jsonl.gz")[:8]).split()[:600]
    rows = []
    for count in (12, 200):
        for words in (100, 300, 600):
            for size in (30, 60, 120):
                stories, pages = iter(news), []
                for _ in range(count):
                    story: list[str] = []
                    while len(story) < size:
                        story += next(stories).split()
                    head, foot = navigation[: words // 2], navigation[words // 2 : words]
                    pages.append("\n\n".join(map(" ".join, (head, story[:size], foot))))
                levels = [dropped([Shard("a", pages)], level) for level in verify.LEVELS]
                rows.append((count, words, size, *levels))
    print(table(["pages", "words of navigation", "words of the story", *verify.LEVELS], rows))


def exchanged(text: str, words: int = 1) -> str:
    """Returns a text with so many words (of Chinese: characters) exchanged, spread evenly."""
    pieces = text.split(" ")
    spaced = len(pieces) > 2 * words + 2
    pieces = pieces if spaced else list(text)
    for i in range(1, words + 1):
        pieces[i * len(pieces) // (words + 1)] = "something" if spaced else "龘"
    return (" " if spaced else "").join(pieces)


def decontaminate(data: Path) -> None:
    """Prints the edited items that the gapped match and both rules find, and the documents flagged without an item."""
    items = {name: load(data / f"eval/{name}.jsonl.gz") for name in SETS}
    texts = list(dict.fromkeys(t for part in items.values() for t in part))
    tokens = minhash.hash_tokens(texts)
    gapped = GappedTable(tokens, tokens.lengths >= 8, 5, 8, 0.4)
    parts = {"english/books": 2000, "english/us_presidential_addresses": 2000, "noisy_web/redpajama_c4-rp_1": 10**9}
    parts |= {"chinese/javaguide_md": 1500, "chinese/poetry_tang_song": 1500, "code/repos": 2000}
    rows = []
    for name, size in parts.items():
        whole = load(data / f"{name}.jsonl.gz")
        whole = whole[:600] if name.startswith("code") else ["\n".join(whole)] if "poetry" in name else whole
        windows = [t[i : i + size] for t in whole for i in range(0, max(len(t) - size // 2, 1), size)]
        flagged: set[int] = set()
        for at in range(0, len(windows), 500):
            matches = gapped.match(minhash.hash_tokens(windows[at : at + 500]))
            flagged |= {at + m.document for m in matches if m.covered >= 8 and m.share >= 0.4}
        rows.append((name, len(windows), len(flagged)))
    print(table([f"without items ({len(texts):,} looked for)", "documents", "flagged by the gapped match"], rows))

    web = load(data / "noisy_web/redpajama_c4-rp_1.jsonl.gz")
    frame = lambda t, i: f"{web[i % 1000][:700]}\n{t}\n{web[i % 1000][700:1400]}"  # noqa: E731
    chosen = random.Random(1).sample([i for i, n in enumerate(tokens.lengths) if 8 <= n <= 400], 1500)
    changes: dict[str, Change] = {"a word exchanged": exchanged, "two words": lambda t: exchanged(t, 2)}
    changes |= {"first half": lambda t: t[: len(t) // 2]}
    rows = []
    for name, change in changes.items():
        documents = minhash.hash_tokens([frame(change(texts[j]), i) for i, j in enumerate(chosen)])
        found = {m.document for m in gapped.match(documents) if m.item == chosen[m.document]}
        rows.append((name, len(chosen), f"{len(found) / len(chosen):.0%}"))
    print(table(["the gapped match alone", "items", "found"], rows))

    changes |= {"soft hyphens": between("\u00ad", 5), "zero-width spaces": between("\u200b", 4)}
    rows = []
    for name, low, high in (("mmlu_dev_and_test_part", 80, 400), ("cmmlu_dev_and_test_part", 30, 150)):
        sample = random.Random(0).sample([t for t in items[name] if low <= len(t) <= high], 40)
        index = ItemIndex([Item(name, str(i), t) for i, t in enumerate(sample)])
        for what, change in changes.items():
            matches = index.match([frame(change(t), i) for i, t in enumerate(sample)])
            hits = sum(any(m.item.text == t for m in one) for t, one in zip(sample, matches))
            rows.append((name, what, len(sample), hits))
    print(table(["both rules", "edit", "items", "found"], rows))


def main() -> None:
    """Runs a part and prints its tables."""
    parts = {"copies": copies, "origins": origins, "decontaminate": decontaminate}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=parts)
    parser.add_argument("--data", type=Path, required=True, help="folder of the text")
    args = parser.parse_args()
    parts[args.part](args.data)


if __name__ == "__main__":
    main()
