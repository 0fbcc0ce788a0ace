"""Clean real text: speed of every preset, and agreement with datatrove rule by rule.

python -m benchmarks.clean --input='web/*.jsonl.gz'                    # speed, in CPU seconds of one core
python -m benchmarks.clean --input='web/*.jsonl.gz' --agreement        # against datatrove, rule by rule
python -m benchmarks.clean --input='zh/*.jsonl.gz' --agreement --rules_of=fineweb2-zh:cmn_Hani
"""

import argparse
import gc
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from data_tools.clean import characters, pipeline, presets
from data_tools.clean.language import identifier
from data_tools.io.batch import from_rows
from data_tools.shards.records import open_shards
from jaxpt.cli.terminal import progress, table

BATCH_BYTES = 8 << 20
SYMBOLS = "hash_signs+ellipses"  # one threshold in the published filters
Texts = Sequence[str]
Bounds = dict[str, tuple[float | None, float | None]]  # least and most of each rule


def batches(texts: Texts) -> list[pa.RecordBatch]:
    """Returns the texts as batches like those of `run_shards`."""
    out, mine, size = [], [], 0
    for text in texts:
        if mine and (size + len(text) > BATCH_BYTES or len(mine) == 1024):
            out.append(from_rows(mine, range(len(mine)))[0])
            mine, size = [], 0
        mine.append({"text": text})
        size += len(text)
    return [*out, from_rows(mine, range(len(mine)))[0]] if mine else out


def speed(
    name: str, before: Sequence[pa.RecordBatch], made: Sequence[pa.RecordBatch], size: int, rounds: int
) -> list[float]:
    """Returns CPU seconds of the start (tables, language model), then megabytes per CPU second in each round.

    The first round meets the words for the first time that `before` has not; a long run lies between it and the others.
    """
    preset = presets.load(name, ["domain_lines.on=false"])
    characters.classes.cache_clear()
    identifier.cache_clear()
    start = time.process_time()
    pipeline.judge(batches(["One line of text."])[0], preset)
    out = [time.process_time() - start]
    gc.collect()
    gc.freeze()  # as a worker does
    pipeline.vocabulary.cache_clear()
    for batch in before:
        pipeline.judge(batch, preset)
    for _ in range(rounds):
        start = time.process_time()
        for batch in made:
            pipeline.judge(batch, preset)
        out.append(size / 1e6 / (time.process_time() - start))
    return out


def peer_speed(texts: Texts) -> float:
    """Returns megabytes per CPU second of datatrove's two Gopher filters, which make up the preset `gopher`."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

    filters = (GopherRepetitionFilter(), GopherQualityFilter())
    filters[0].filter(Document("warm up", "0"))
    start = time.process_time()
    for text in texts:
        for peer in filters:
            peer.filter(Document(text, "0"))
    return sum(len(t.encode("utf-8", "replace")) for t in texts) / 1e6 / (time.process_time() - start)


def peers(bounds: Bounds, language: str, stop_words: Sequence[str]) -> dict[str, Callable[[str], bool]]:
    """Returns, for each rule, datatrove's filter with that rule alone: a function from a text to whether it stays."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    def least(rule: str) -> float | None:
        return bounds.get(rule, (None, None))[0]

    def most(rule: str) -> float | None:
        return bounds.get(rule, (None, None))[1]

    quality = {
        "words": {"min_doc_words": least("words"), "max_doc_words": most("words")},
        "mean_word_length": {
            "min_avg_word_length": least("mean_word_length"),
            "max_avg_word_length": most("mean_word_length"),
        },
        "bullet_lines": {"max_bullet_lines_ratio": most("bullet_lines")},
        "ellipsis_lines": {"max_ellipsis_lines_ratio": most("ellipsis_lines")},
        "alphabetic_words": {"max_non_alpha_words_ratio": least("alphabetic_words")},
        "stop_words": {"min_stop_words": least("stop_words"), "stop_words": list(stop_words)},
    }
    off = dict.fromkeys((k for mine in quality.values() for k in mine if k != "stop_words"), None)
    tongue = {"language": language}
    out: dict[str, object] = {
        name: GopherQualityFilter(**{**off, "max_symbol_word_ratio": None, **mine}, **tongue)
        for name, mine in quality.items()
    }
    out[SYMBOLS] = GopherQualityFilter(**off, max_symbol_word_ratio=most("hash_signs"), **tongue)
    repetition = {
        "duplicate_paragraphs": {"dup_para_frac": most("duplicate_paragraphs")},
        "duplicate_paragraph_characters": {"dup_para_char_frac": most("duplicate_paragraph_characters")},
        "duplicate_lines": {"dup_line_frac": most("duplicate_lines")},
        "duplicate_line_characters": {"dup_line_char_frac": most("duplicate_line_characters")},
        **{f"top_{n}_gram": {"top_n_grams": ((n, most(f"top_{n}_gram")),)} for n in range(2, 5)},
        **{f"repeated_{n}_gram": {"dup_n_grams": ((n, most(f"repeated_{n}_gram")),)} for n in range(5, 11)},
    }
    off = {"dup_para_frac": None, "dup_para_char_frac": None, "dup_line_frac": None, "dup_line_char_frac": None}
    off |= {"top_n_grams": (), "dup_n_grams": ()}
    out |= {name: GopherRepetitionFilter(**{**off, **mine}, **tongue) for name, mine in repetition.items()}
    fine = {
        "punctuated_lines": {"line_punct_thr": least("punctuated_lines")},
        "short_lines": {"short_line_thr": most("short_lines")},
        "repeated_line_characters": {"char_duplicates_ratio": most("repeated_line_characters")},
        "line_breaks_per_word": {"new_line_ratio": most("line_breaks_per_word")},
    }
    off = {"line_punct_thr": -1, "short_line_thr": 9, "char_duplicates_ratio": 9, "new_line_ratio": 9e9}
    out |= {name: FineWebQualityFilter(**{**off, **mine}, **tongue) for name, mine in fine.items()}
    off = {"min_num_sentences": -1, "filter_lorem_ipsum": False, "filter_curly_bracket": False}
    for name, mine in {
        "lorem_ipsum": {"filter_lorem_ipsum": True},
        "curly_brackets": {"filter_curly_bracket": True},
        "sentences": {"min_num_sentences": least("sentences")},
    }.items():
        out[name] = C4QualityFilter(**{**off, **mine}, **tongue)

    def stays(peer: object) -> Callable[[str], bool]:
        def ask(text: str) -> bool:
            answer = peer.filter(Document(text, "0"))
            return answer if isinstance(answer, bool) else answer[0]

        return ask

    return {name: stays(peer) for name, peer in out.items() if name in bounds}


def ours(texts: Texts, names: Sequence[str]) -> tuple[dict[str, np.ndarray], Bounds, Sequence[str]]:
    """Returns, for each rule of some presets, which texts stay, `[n] bool`; the rules' bounds; the stop words."""
    out: dict[str, np.ndarray] = {}
    bounds: Bounds = {}
    stop_words: Sequence[str] = ()
    for name in names:
        there = presets.load(name).steps
        changes = [f"{step}.on=false" for step in ("language", "listed_address", "address_words") if step in there]
        if name != "c4" and "c4_lines" in there:
            changes += [f"{step}.on=false" for step in ("c4_lines", "lorem_ipsum", "curly_brackets", "sentences")]
        preset = presets.load(name, changes)
        decisions = [pipeline.judge(batch, preset) for batch in batches(texts)]
        for rule in preset.rules():
            values = np.concatenate([d.values[rule.name] for d in decisions])
            low = -np.inf if rule.least is None else rule.least
            out[rule.name] = (values >= low) & (values <= (np.inf if rule.most is None else rule.most))
            bounds[rule.name] = (rule.least, rule.most)
        stop_words = preset.steps.get("stop_words", {}).get("words", stop_words)
    out[SYMBOLS] = out.pop("hash_signs") & out.pop("ellipses")
    bounds[SYMBOLS] = bounds["hash_signs"]
    return out, bounds, stop_words


def disagreements(texts: Texts, names: Sequence[str], language: str) -> dict[str, list[tuple[int, bool]]]:
    """Returns, for each rule, the texts on which the two differ, with our decision (True: stays)."""
    mine, *how = ours(texts, names)
    asked = peers(how[0], language, how[1])
    out: dict[str, list[tuple[int, bool]]] = {name: [] for name in asked}
    with progress(len(texts), "datatrove", "text") as bar:
        for i, text in enumerate(texts):
            for name, stays in asked.items():
                if stays(text) != mine[name][i]:
                    out[name].append((i, bool(mine[name][i])))
            bar.update()
    return out


def c4_text(texts: Texts) -> int:
    """Returns how many texts C4's line rules leave different from datatrove's result."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter

    peer = C4QualityFilter(min_num_sentences=-1, filter_lorem_ipsum=False, filter_curly_bracket=False)
    preset = presets.load("c4", ["lorem_ipsum.on=false", "curly_brackets.on=false", "sentences.on=false"])
    edited = [text for batch in batches(texts) for text in pipeline.judge(batch, preset).texts]
    different = 0
    for text, mine in zip(texts, edited):
        document = Document(text, "0")
        peer.filter(document)
        different += document.text != mine
    return different


def read(globs: str) -> list[str]:
    """Returns all texts."""
    return [row["text"] for shard in open_shards(globs) for row in shard.rows()]


def main() -> None:
    """Reads the texts, measures, prints."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--input", required=True)
    flags.add_argument("--before", help="other text that a run has read by then")
    flags.add_argument("--presets", default="gopher,c4,fineweb,dclm,harsh")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--most", type=int, default=10**9, help="texts")
    flags.add_argument("--peer", type=int, default=0, help="also time datatrove's gopher on so many texts")
    flags.add_argument("--agreement", action="store_true", help="the rules of fineweb, gopher and c4, or of --rules_of")
    flags.add_argument("--rules_of", metavar="PRESET:LANGUAGE", help="e.g. fineweb2-zh:cmn_Hani, as datatrove names it")
    args = flags.parse_args()
    before = read(args.before) if args.before else []
    texts = read(args.input)[: args.most]
    size = sum(len(t.encode("utf-8", "replace")) for t in texts)
    print(f"{len(texts):,} texts, {size / 1e6:.1f} MB")
    if args.agreement:
        preset, _, language = (args.rules_of or "fineweb,gopher,c4:eng").partition(":")
        found = disagreements(texts, preset.split(","), language)
        rows = [
            (
                rule,
                len(places),
                f"{1 - len(places) / len(texts):.4%}",
                " ".join(f"{i}:{'stays' if s else 'goes'}" for i, s in places[:9]),
            )
            for rule, places in found.items()
        ]
        print(table(["rule", "disagree", "agree", "which texts, and what we say"], rows))
        if not args.rules_of:
            print(f"C4's lines: {c4_text(texts)} texts come out different")
        return
    if args.peer:
        print(f"datatrove, gopher: {peer_speed(texts[: args.peer]):.2f} MB per CPU second")
    made = batches(texts)
    rows = [
        [name, *(round(s, 2) for s in speed(name, batches(before), made, size, args.rounds))]
        for name in args.presets.split(",")
    ]
    print(table(["MB per CPU second", "start, s", *(f"round {i + 1}" for i in range(args.rounds))], rows))


if __name__ == "__main__":
    main()
