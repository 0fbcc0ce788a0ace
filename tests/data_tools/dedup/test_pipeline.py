"""The whole deduplication: what is planted is found, what only looks alike stays, and nothing else decides."""

import gzip
import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from data_tools.dedup import pipeline, store, units
from data_tools.dedup.engine import open_engine
from data_tools.dedup.oracle import NumpyEngine
from data_tools.dedup.pipeline import DedupOptions
from data_tools.dedup.store import SignatureLayout
from data_tools.dedup.units import SurvivorRule
from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Memory:
    """A shard held in memory."""

    name: str
    texts: tuple
    fingerprint: str = "0"
    extra: tuple = field(default=())

    def rows(self):
        extra = self.extra or ({},) * len(self.texts)
        return ({"text": t, **e} for t, e in zip(self.texts, extra))


def words(rng, count):
    return [f"w{i}" for i in rng.integers(0, 20000, count)]


def edited(rng, text, edits):
    out = list(text)
    for at in rng.choice(len(out), edits, replace=False):
        out[at] = f"n{rng.integers(1 << 30)}"
    return out


def planted(seed=0, count=300):
    """Unrelated texts, with an exact copy of every 10th and an edited copy of every 5th, in three shards."""
    rng = np.random.default_rng(seed)
    base = [words(rng, 200) for _ in range(count)]
    texts = [(" ".join(t), i, "base") for i, t in enumerate(base)]
    texts += [(" ".join(base[i]) + "\n", i, "copy") for i in range(0, count, 10)]
    texts += [(" ".join(edited(rng, base[i][:-2], 3)), i, "near") for i in range(0, count, 5)]
    order = rng.permutation(len(texts))
    texts = [texts[i] for i in order]
    cut = len(texts) // 3
    parts = [texts[:cut], texts[cut : 2 * cut], texts[2 * cut :]]
    return parts, [Memory(f"s{i}", tuple(t for t, _, _ in part)) for i, part in enumerate(parts)]


def run(shards, path, engine=None, layout=None, **options):
    return pipeline.run(shards, path, layout or SignatureLayout(), engine or NumpyEngine(), DedupOptions(**options))


def kept_texts(result, shards):
    out = []
    for shard, number in zip(shards, result.numbers):
        gone = {u & 0xFFFFFFFF for u in result.dropped(number)}
        out += [t for i, t in enumerate(shard.texts) if i not in gone]
    return out


def test_planted_copies_go_and_every_original_keeps_one_witness(tmp_path):
    parts, shards = planted()
    result = run(shards, tmp_path / "a")
    assert result.counts["exact"] == 30
    gone = {(n, u & 0xFFFFFFFF) for n in result.numbers for u in result.dropped(n)}
    left = [p for part, n in zip(parts, result.numbers) for i, p in enumerate(part) if (n, i) not in gone]
    ids = [i for _, i, _ in left]
    assert set(ids) == set(range(300))
    assert len(ids) <= 300 + 3  # 60 planted near copies, J about 0.85: nearly all found
    without_near = run(shards, tmp_path / "b", near=False)
    assert without_near.counts["near"] == 0


def test_every_drop_names_a_kept_anchor_and_its_evidence(tmp_path):
    _, shards = planted()
    result = run(shards, tmp_path)
    rows = result.clusters.to_pylist()
    kept = {r["unit"] for r in rows if r["rule"] == "kept"}
    drops = [r for r in rows if r["rule"] != "kept"]
    assert {r["rule"] for r in drops} == {"exact", "near"}
    assert all(r["anchor"] in kept for r in drops)
    assert all(r["jaccard"] >= 0.8 or r["covered"] >= 0.95 for r in drops)
    assert all(r["anchor"] == r["unit"] for r in rows if r["rule"] == "kept")


def test_engine_splits_paths_and_workers_change_nothing(tmp_path):
    pytest.importorskip("daft")
    _, shards = planted(1, 120)
    want = run(shards, tmp_path / "0", signature_path="numpy").clusters
    assert len(want) > 50
    assert run(shards, tmp_path / "1", open_engine("native")).clusters.equals(want)
    assert run(shards, tmp_path / "2", splits=3).clusters.equals(want)
    assert run(shards, tmp_path / "3", workers=2).clusters.equals(want)
    assert run(shards[::-1], tmp_path / "4").clusters.equals(want)


def test_a_killed_run_goes_on_and_signs_no_finished_shard_again(tmp_path, monkeypatch):
    _, shards = planted(2, 120)
    want = run(shards, tmp_path / "whole").clusters
    real, calls = store.Store.sign, []

    def dies(self, shard, number, path):
        calls.append(shard.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, shard, number, path)

    monkeypatch.setattr(store.Store, "sign", dies)
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path / "killed")
    assert run(shards, tmp_path / "killed").clusters.equals(want)
    assert calls == ["s0", "s1", "s1", "s2"]


def test_a_new_dump_is_compared_with_the_old_one_which_stays_as_it_was(tmp_path):
    rng = np.random.default_rng(3)
    base = [words(rng, 150) for _ in range(20)]
    first = Memory("2024", tuple(" ".join(t) for t in base))
    longer = tuple(" ".join([*edited(rng, t, 1), "coda"]) for t in base[:10])
    fresh = tuple(" ".join(words(rng, 150)) for _ in range(5))
    second = Memory("2025", longer + fresh + first.texts[10:12])
    run([first], tmp_path)
    result = run([first, second], tmp_path)
    gone = {u & 0xFFFFFFFF: r["rule"] for u, r in result.dropped(result.numbers[1]).items()}
    assert gone == {**dict.fromkeys(range(10), "near"), 15: "exact", 16: "exact"}
    assert result.dropped(result.numbers[0]) == {}
    with pytest.raises(JaxptError, match="'2024' of an earlier run"):
        run([second], tmp_path)
    with pytest.raises(JaxptError, match="has changed"):
        run([Memory("2024", first.texts, "1")], tmp_path)


def test_an_unfinished_run_goes_on_with_all_of_its_shards_or_not_at_all(tmp_path, monkeypatch):
    """What a killed run had only signed was never compared: it must not count as kept."""
    _, shards = planted(2, 120)
    want = run(shards, tmp_path / "whole").clusters
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_near", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(shards[:2], tmp_path / "killed")
    with pytest.raises(JaxptError, match="last run was not finished and had shard 's0'"):
        run(shards[2:], tmp_path / "killed")
    assert run(shards, tmp_path / "killed").clusters.equals(want)


def test_a_copy_of_a_text_that_went_itself_is_told_the_text_that_stays(tmp_path):
    rng = np.random.default_rng(8)
    text = words(rng, 200)
    alone = " ".join(words(rng, 50))
    shard = Memory("s", (" ".join(text), " ".join(text[:-1]), " ".join(text[:-1]), alone, alone))
    rows = run([shard], tmp_path).clusters.to_pylist()
    assert [(r["unit"], r["rule"], r["anchor"], r["cluster"]) for r in rows] == [
        (0, "kept", 0, 0),
        (1, "near", 0, 0),
        (2, "exact", 0, 0),
        (3, "kept", 3, 3),
        (4, "exact", 3, 3),
    ]
    assert [r["jaccard"] is None for r in rows] == [True, False, False, True, False]


def test_the_survivor_is_the_longest_the_newest_the_best_or_the_first(tmp_path):
    rng = np.random.default_rng(4)
    text = words(rng, 200)
    texts = tuple(" ".join(text[: 200 - cut]) for cut in (3, 0, 2, 1))
    dates = ("2024-05-01", "2023-01-01", "2025-01-01T00:00:00Z", "soon")
    extra = tuple({"date": d, "score": s} for d, s in zip(dates, (0.1, None, -4, 7)))
    shard = Memory("s", texts, extra=extra)
    for choice, survivor in [
        (SurvivorRule("longest"), 1),
        (SurvivorRule("newest", "date"), 2),
        (SurvivorRule("best", "score"), 3),
        (SurvivorRule("first"), 0),
        (SurvivorRule("quality", "score"), 3),
        (SurvivorRule("quality"), 1),  # no `class_score` in the rows: the longest
    ]:
        result = run([shard], tmp_path / f"{choice.policy}{choice.field}", layout=SignatureLayout(choice=choice))
        rows = result.clusters.to_pylist()
        assert [r["unit"] for r in rows if r["rule"] == "kept"] == [survivor]
    with pytest.raises(JaxptError, match="survivor_field"):
        run([shard], tmp_path / "x", layout=SignatureLayout(choice=SurvivorRule("newest")))


def test_quality_goes_by_the_score_then_by_length_and_a_score_beats_none():
    rule = SurvivorRule()
    scores = [-np.inf, -3.0, -0.5, 0.0, 0.2, 0.9, 1.0, 1.5, 40.0, np.inf]
    values = [rule.preference({"class_score": s}, 100) for s in scores]
    assert (np.diff(units.order_key(values, 0)) < 0).all()
    navigation, article = rule.preference({"class_score": 0.1}, 90_000), rule.preference({"class_score": 0.8}, 3_000)
    assert article > navigation > rule.preference({}, 10**9) > rule.preference({"class_score": None}, 3_000)
    alike = [rule.preference({"class_score": s}, n) for s, n in ((0.99997, 400), (0.99999, 300))]
    assert alike[0] > alike[1]


def test_preferences_sort_as_numbers_and_runs_come_first():
    values = [-np.inf, -2.5, -1.0, 0.0, 1e-9, 3.0, 1e12, np.inf]
    order = units.order_key(values, 0)
    assert (np.diff(order) < 0).all()
    assert units.order_key([-np.inf], 0)[0] < units.order_key([np.inf], 1)[0]
    assert units.order_key([0.0], 127)[0] > units.order_key([-np.inf], 126)[0]
    with pytest.raises(JaxptError, match="128 runs"):
        units.order_key([0.0], 128)


def test_paragraphs_and_lines_are_cut_out_of_their_documents():
    text = "first one\n\nsecond\nline\n \n third  "
    spans = units.UNITS["paragraph"](text)
    assert [text[a:b].strip() for a, b in spans] == ["first one", "second\nline", "third"]
    assert units.without(text, spans[:1]) == "second\nline\n \n third"
    assert units.without(text, spans[1:2]) == "first one\n\nthird"
    assert units.without(text, spans) == ""
    lines = units.UNITS["line"](text)
    assert [text[a:b].strip() for a, b in lines] == ["first one", "second", "line", "third"]


def test_repeated_paragraphs_are_found_across_documents_and_short_ones_left(tmp_path):
    rng = np.random.default_rng(5)
    notice = words(rng, 60)
    texts = [f"{' '.join(words(rng, 80))}\n\n{' '.join(edited(rng, notice, 1))}\n\nRead more" for _ in range(12)]
    layout = SignatureLayout(unit="paragraph", least_tokens=10)
    result = run([Memory("s", tuple(texts))], tmp_path, layout=layout)
    assert [u % 3 for u in result.dropped(0)] == [1] * 11
    with pytest.raises(JaxptError, match="least_tokens is 10"):
        run([Memory("s", tuple(texts))], tmp_path, layout=SignatureLayout(unit="paragraph"))


def test_template_data_is_not_wiped_out_although_its_texts_are_candidates(tmp_path):
    """Chat data with one long system prompt: every pair shares most shingles, every text says something new."""
    rng = np.random.default_rng(6)
    prompt = words(rng, 300)
    texts = tuple(" ".join([*prompt, *words(rng, int(rng.integers(15, 40)))]) for _ in range(400))
    result = run([Memory("s", texts)], tmp_path)
    assert result.counts["candidates"] > 300  # banding alone would have dropped nearly all
    assert len(result.dropped(0)) < 0.01 * len(texts)


def test_chinese_poems_are_not_wiped_out_and_their_copies_are_found(tmp_path, shared):
    with gzip.open(shared / "data/chinese/poetry_tang_song.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(1500))]
    once = run([Memory("s", tuple(texts))], tmp_path / "a")
    assert len(once.dropped(0)) < 0.01 * len(texts)
    long = [t for t in texts if len(t) > 120][:100]
    copies = tuple(t[:60] + "龘" + t[61:] for t in long)
    twice = run([Memory("s", tuple(texts)), Memory("t", copies)], tmp_path / "b")
    assert sum(len(twice.dropped(n)) for n in (0, 1)) - len(once.dropped(0)) >= 0.95 * len(copies)


@pytest.mark.parametrize("strictness", ["balanced", "harsh"])
def test_editions_of_one_book_are_found_and_other_books_left_alone(tmp_path, shared, strictness):
    rows = []
    for name in ("noisy_web/neardup_book_editions", "english/books"):
        with gzip.open(shared / f"data/{name}.jsonl.gz", "rt") as lines:
            rows += [json.loads(line) for line, _ in zip(lines, range(8))]
    shard = Memory("books", tuple(r["text"] for r in rows))
    result = run([shard], tmp_path, strictness=strictness)
    groups = [r.get("dup_group") for r in rows]
    dropped = result.dropped(0)
    assert len(dropped) == 5  # six editions of one book
    assert all(groups[u] == groups[r["anchor"]] is not None for u, r in dropped.items())


def test_paragraphs_of_other_editions_are_found_and_those_of_other_books_left_alone(tmp_path, shared):
    """Five of six editions repeat the book paragraph by paragraph; eight other books share nothing with it."""
    rows = []
    for name in ("noisy_web/neardup_book_editions", "english/books"):
        with gzip.open(shared / f"data/{name}.jsonl.gz", "rt") as lines:
            rows += [json.loads(line) for line, _ in zip(lines, range(8))]
    texts = tuple(r["text"][20_000:80_000] for r in rows)
    result = run([Memory("books", texts)], tmp_path, layout=SignatureLayout(unit="paragraph", least_tokens=20))
    where = result.store.places(0)
    words_of, dropped = [0] * len(rows), [0] * len(rows)
    gone = result.dropped(0)
    for unit, row, start, stop in zip(*(where[k].tolist() for k in ("unit", "row", "start", "stop"))):
        words_of[row] += stop - start
        dropped[row] += (stop - start) * (unit in gone)
    shares = [d / w for d, w in zip(dropped, words_of)]
    editions = [r.get("dup_group") is not None for r in rows]
    assert max(s for s, e in zip(shares, editions) if not e) < 0.02, shares
    assert sum(s > 0.5 for s, e in zip(shares, editions) if e) >= 3, shares


def test_odd_texts_go_through(tmp_path):
    odd = ("", " \n ", "\ud800", "\x00", "a" * 100_000, "...", "😀😀", "ok")
    result = run([Memory("s", odd), Memory("empty", ())], tmp_path)
    assert len(result.clusters) == 0
    assert result.counts["candidates"] == 0


def test_settings_that_cannot_work_are_refused_by_name(tmp_path):
    shard = Memory("s", ("a",))
    for match, call in [
        ("did you mean 'paragraph'", lambda: run([shard], tmp_path, layout=SignatureLayout(unit="paragrph"))),
        ("did you mean 'harsh'", lambda: run([shard], tmp_path, strictness="hars")),
        ("splits=0", lambda: run([shard], tmp_path, splits=0)),
        ("exact or near", lambda: run([shard], tmp_path, exact=False, near=False)),
        ("two input shards", lambda: run([shard, shard], tmp_path)),
    ]:
        with pytest.raises(JaxptError, match=match):
            call()
