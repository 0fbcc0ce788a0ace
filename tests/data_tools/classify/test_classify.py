"""Classifiers: trained twice the same, judged on texts they never saw, cut by quantile, and used to mine more."""

import gzip
import json

import numpy as np
import pytest

from data_tools.__main__ import main
from data_tools.classify import judge, share
from data_tools.classify.labels import LabelNames
from data_tools.classify.recall import MiningBudget, PoolText, recall
from data_tools.classify.recipes import RECIPES, recipe
from jaxpt.errors import JaxptError

pytest.importorskip("fasttext")
from data_tools.classify.model import Classifier, prepare

MATH = ["theorem", "lemma", "proof", "integral", "equation", "polynomial", "matrix", "prime", "algebra", "vector"]
SHOP = ["cheap", "buy", "discount", "shipping", "order", "price", "shoes", "cart", "offer", "deal"]


def texts(rng, words, count, length=30):
    shared = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it"]
    return [" ".join(rng.choice(words + shared, length)) for _ in range(count)]


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    examples = [(t, "math") for t in texts(rng, MATH, 200)] + [(t, "other") for t in texts(rng, SHOP, 200)]
    return Classifier.train(examples, recipe("math", dim=16, bucket=20_000)), examples


def test_the_same_examples_give_the_same_model(trained):
    classifier, examples = trained
    probe = [t for t, _ in examples[::40]]
    for order in (examples, examples[::-1]):
        again = Classifier.train(order, classifier.recipe)
        np.testing.assert_array_equal(classifier.probabilities(probe), again.probabilities(probe))
    other = Classifier.train(examples[:-1], classifier.recipe)
    assert (classifier.probabilities(probe) != other.probabilities(probe)).any()


def test_a_saved_model_scores_as_before_and_a_lost_recipe_is_asked_for(trained, tmp_path):
    classifier, examples = trained
    classifier.save(tmp_path / "m.bin")
    probe = [t for t, _ in examples[::40]]
    np.testing.assert_array_equal(Classifier.load(tmp_path / "m.bin").scores(probe), classifier.scores(probe))
    (tmp_path / "m.bin.json").unlink()
    with pytest.raises(JaxptError, match="give --recipe"):
        Classifier.load(tmp_path / "m.bin")


def test_a_recipe_for_millions_learns_from_a_few_hundred_examples_too(trained):
    classifier, examples = trained
    confident = classifier.probabilities([t for t, _ in examples]).max(axis=1).mean()
    assert confident > 0.9
    as_for_millions = Classifier.train(examples, recipe("math", dim=16, bucket=20_000, lr=0.1))
    assert as_for_millions.probabilities([t for t, _ in examples]).max(axis=1).mean() < 0.6  # what is given is taken
    large = RECIPES["math"].for_examples(10**6)
    assert (large.lr, large.epoch) == (0.1, 3)


def test_texts_that_break_fasttext_s_line_format_are_scored(trained):
    classifier, _ = trained
    odd = ["", "\n", "a\nb\r\nc\x00d\u2028e", "__label__other theorem", "\ud800", "中文"]
    found = classifier.probabilities(odd)
    assert found.shape == (6, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-4)
    assert classifier.scores([]).shape == (0,)


def test_chinese_is_fed_as_characters():
    assert prepare("深度 learning", RECIPES["topic"]) == "深 度 learning"


def test_copies_never_straddle_the_split_and_its_share_is_right():
    sides = [judge.held_out(f"text number {i}", 0.2) for i in range(4000)]
    assert np.mean(sides) == pytest.approx(0.2, abs=0.02)
    assert all(judge.held_out(f"Text  number {i}\n", 0.2) == s for i, s in enumerate(sides))


def test_precision_recall_and_calibration_are_what_counting_gives():
    chances = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    seen = judge.judge(chances, ["a", "b", "b", "b"], ["a", "b"])
    assert seen.accuracy == 0.75
    assert (seen.labels[0].precision, seen.labels[0].recall) == (0.5, 1.0)
    assert (seen.labels[1].precision, seen.labels[1].recall) == (1.0, 2 / 3)
    assert seen.calibration.error == pytest.approx((0.1 + 0.8 + 0.3 + 0.4) / 4)
    page = judge.picture(seen, "a < b")
    assert "<svg" in page
    assert "a &lt; b" in page
    assert judge.picture(seen, "a < b") == page  # no date, no random ids
    with pytest.raises(JaxptError, match="never occurs"):
        judge.judge(chances, ["a", "b", "c", "b"], ["a", "b"])


def stay(scores, keep, parts=1):
    tie = share.ties("shard", 0, len(scores))
    ranking = share.Ranking()
    for some, places in zip(np.array_split(scores, parts), np.array_split(tie, parts)):
        ranking.add(some, places)
    cut = ranking.cut(keep)
    return cut, cut.stays(scores, tie)


@pytest.mark.parametrize("keep", [0.1, 0.29, 0.001, 1 / 3, 1.0])
def test_the_best_share_is_kept_to_the_document_whatever_ties(keep, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(share, "BLOCK", 100)  # many blocks
    for scores in (
        rng.normal(size=1000),
        np.ones(1000),
        rng.integers(-2, 3, 1000) * 0.0,
        rng.integers(-2, 3, 1000) / 1,
    ):
        cut, kept = stay(scores, keep)
        assert kept.sum() == cut.documents == round(keep * 1000)
        assert scores[kept].min() == cut.value >= scores[~kept].max(initial=-np.inf)
        assert (stay(scores, keep, 7)[1] == kept).all()
    if keep >= 0.1:  # among equals not simply the first
        assert np.flatnonzero(stay(np.ones(1000), keep)[1]).max() > 800


def test_a_score_that_is_no_number_ranks_last_and_a_share_has_limits():
    scores = np.array([np.nan, -np.inf, 3.0, 2.0, np.inf])
    assert stay(scores, 0.6)[1].tolist() == [False, False, True, True, True]
    for keep in (0, 1.1, -1, float("nan")):
        with pytest.raises(JaxptError, match=r"must be in \(0, 1\]"):
            stay(scores, keep)
    with pytest.raises(JaxptError, match="there must be documents"):
        share.Ranking().cut(0.5)


@pytest.mark.parametrize("loss", ["softmax", "ova", "hs"])
def test_margins_are_the_log_odds_of_the_probabilities(trained, loss):
    classifier, examples = trained
    if loss != "softmax":
        classifier = Classifier.train(examples, recipe("math", dim=4, bucket=2_000, loss=loss, lr=0.2, epoch=2))
    probe = [*(t for t, _ in examples[::10]), "", "中文", "cheap theorem"]
    chance = np.clip(classifier.scores(probe).astype(np.float64) - 1e-5, 1e-9, None)  # fastText adds as much
    found = 1 / (1 + np.exp(-classifier.margins(probe)))
    np.testing.assert_allclose(found, chance, atol=3e-5 if loss != "ova" else 0.02)  # of ova it is read from a table
    alone = [classifier.margins([text])[0] for text in probe]
    np.testing.assert_array_equal(alone, classifier.margins(probe))  # no batch changes them


def test_labels_that_would_become_one_word_are_refused():
    def named(*values):
        names = LabelNames()
        return [names.name(value, f"record {i}") for i, value in enumerate(values)]

    assert named("very good", "bad", " very\u00a0 good", 1, True) == ["very_good", "bad", "very_good", "1", "True"]
    for one, other in [
        ("very good", "very_good"),
        ("a b_c", "a_b c"),
        (1, "1"),
        (True, "True"),
        (1.0, "1.0"),
    ]:
        with pytest.raises(JaxptError, match=r"\(record 0\) and .*\(record 1\) would both be called"):
            named(one, other)
    for value, what in [(["good"], "a list"), ({"a": 1}, "an object"), (float("nan"), "nan"), ("  ", "an empty label")]:
        with pytest.raises(JaxptError, match=f"record 0 has {what}"):
            named(value)


def test_the_command_keeps_what_is_asked_of_saturated_scores(tmp_path, trained, capsys):
    labelled = [{"text": text, "label": label} for text, label in trained[1]]
    rng = np.random.default_rng(3)
    pool = [
        {"text": text} for text in texts(rng, MATH, 30) + texts(rng, SHOP, 70) + [" ".join(MATH * 5)] * 99 + ["\ud83d"]
    ]

    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    model = tmp_path / "m.bin"
    good = write("labelled.jsonl", labelled)
    settings = ["--recipe=math", "--set=dim=16", "--set=bucket=20000", "--set=lr=5"]
    assert main(["classify", f"--train={good}", f"--model={model}", *settings]) == 0
    scores = Classifier.load(model).scores([row["text"] for row in pool])
    assert (scores >= np.sort(scores)[-20]).sum() > 90  # a threshold of the probability would keep five times as many
    write("pool.jsonl", pool)
    for keep, want in (("0.1", 20), ("0.335", 67), ("1", 200)):
        out = tmp_path / f"keep{keep}"
        places = [f"--input={tmp_path}/pool.jsonl", f"--model={model}", f"--output={out}"]
        assert main(["classify", *places, f"--keep={keep}"]) == 0
        assert len((out / "pool.jsonl").read_text().splitlines()) == want
        assert f"{want} documents" in capsys.readouterr().out
    bad = write("bad.jsonl", [*labelled, {"text": "x", "label": ["math"], "id": 7}])
    assert main(["classify", f"--train={bad}", f"--model={model}"]) == 1
    assert "bad.jsonl: record 7 has a list as label" in capsys.readouterr().err


def mining_pool(rng):
    documents = []
    for i, text in enumerate(texts(rng, MATH, 120)):
        documents.append(PoolText(f"m{i}", text, f"https://www.maths.example/{i}"))
    for i, text in enumerate(texts(rng, SHOP, 880)):
        documents.append(PoolText(f"s{i}", text, f"https://shop{i % 9}.example/{i}"))
    return documents


def test_recall_finds_what_looks_like_the_seed_and_tells_the_domains():
    rng = np.random.default_rng(1)
    pool = mining_pool(rng)
    tokens = lambda text: len(text.split())  # noqa: E731
    plan = MiningBudget(top_tokens=100 * 30, rounds=2, domain_pages=3)
    mined = recall(texts(rng, MATH, 60), lambda: pool, recipe("math", dim=16, min_count=1, bucket=20_000), plan, tokens)
    found, rounds = mined.scores, mined.rounds
    assert len(found) == 100
    assert all(id.startswith("m") for id in found)
    assert [r.domains[0][0] for r in rounds] == ["maths.example"] * 2
    held = sum(s.examples for s in mined.judgement.labels if s.label == "math")
    assert rounds[1].positives > rounds[0].positives == 60 - held
    assert held > 3
    assert min(min(r.precision, r.recall) for r in rounds) > 0.8
    assert max(r.calibration_error for r in rounds) < 0.2
    assert rounds[1].new_tokens < rounds[0].new_tokens == 3000


def test_recall_does_not_depend_on_the_order_of_the_pool():
    pool, seed = mining_pool(np.random.default_rng(1)), texts(np.random.default_rng(2), MATH, 40)
    settings = recipe("math", dim=8, min_count=1, bucket=20_000)
    mined = recall(seed, lambda: pool, settings, MiningBudget(3000, 2))
    again = recall(seed[::-1], lambda: pool[::-1], settings, MiningBudget(3000, 2))
    assert mined.scores == again.scores
    assert mined.rounds == again.rounds
    other = recall(seed, lambda: pool, recipe("math", dim=8, min_count=1, seed=1, bucket=20_000), MiningBudget(3000, 2))
    assert mined.scores != other.scores


def test_mistakes_are_told_in_one_line(trained):
    with pytest.raises(JaxptError, match="did you mean 'quality'"):
        recipe("qualty")
    with pytest.raises(JaxptError, match="did you mean 'epoch'"):
        recipe("math", epochs=3)
    with pytest.raises(JaxptError, match="at least two labels"):
        Classifier.train([("a", "x")], recipe("topic"))
    with pytest.raises(JaxptError, match="without spaces"):
        Classifier.train([("a", "x y"), ("b", "z")], recipe("topic"))
    with pytest.raises(JaxptError, match="word_ngrams must be 2"):
        Classifier.train([("a", "x"), ("b", "z")], recipe("topic", word_ngrams=1))
    with pytest.raises(JaxptError, match="0 seed texts"):
        recall([], lambda: [], recipe("math"), MiningBudget(10))
    pool = [PoolText("a", "one two"), PoolText("b", "three")]
    with pytest.raises(JaxptError, match="budget of 10 tokens takes the whole pool, 2 documents of 3 tokens"):
        recall(["one"], lambda: pool, recipe("math"), MiningBudget(10), lambda text: len(text.split()))


@pytest.mark.parametrize(("name", "least"), [("sms_spam", 0.96), ("ag_news_test", 0.82), ("thucnews_titles", 0.80)])
def test_hand_labelled_text_is_classified(shared, name, least):
    with gzip.open(shared / f"data/labelled/{name}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    settings = recipe("topic", dim=32, epoch=10, bucket=100_000)
    rows = [(r["text"], str(r["label"]).strip().replace(" ", "_").replace("/", "_")) for r in rows]
    test = [r for r in rows if judge.held_out(r[0], 0.1)]
    classifier = Classifier.train([r for r in rows if not judge.held_out(r[0], 0.1)], settings)
    seen = judge.judge(classifier.probabilities([t for t, _ in test]), [l for _, l in test], classifier.labels)
    assert seen.accuracy >= least
    assert min(s.recall for s in seen.labels) > 0.5
    print(name, seen.accuracy, seen.calibration.error)
