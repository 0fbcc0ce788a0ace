"""Perplexity: a proper distribution, the right order of texts, and quantiles per language and source."""

import gzip
import json

import numpy as np
import pytest

from data_tools.dedup import minhash
from data_tools.perplexity.ngram import NgramModel
from data_tools.perplexity.scorers import KenlmScorer, ModelScorer
from data_tools.perplexity.tails import Tails, cuts
from jaxpt.errors import JaxptError

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "the cat saw the dog", "a dog saw a cat on a log"]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("history", ["the", "sat on the", "never seen words", ""])
def test_the_probabilities_of_all_words_and_the_unknown_word_add_up_to_one(order, history):
    model = NgramModel.train(TEXTS, order)
    words = sorted({w for t in TEXTS for w in t.split()})
    total = 0.0
    for word in [*words, "unheard"]:
        tokens = minhash.hash_tokens([f"{history} {word}"])
        total += model.probabilities(tokens)[-1]
    assert total == pytest.approx(1.0, abs=1e-9)


def test_bigram_probabilities_are_what_kneser_ney_says():
    model = NgramModel.train(["a b a b a c"], 2)
    d2, d1 = model.discounts[1], model.discounts[0]
    # distinct bigrams: (start)a, ab, ba, ac -> continuation counts a: 2, b: 1, c: 1
    unigram_b = (1 - d1) / 4 + d1 * 3 / 4 / 4
    want = (2 - d2) / 3 + d2 * 2 / 3 * unigram_b  # a is followed by b, b, c
    found = model.probabilities(minhash.hash_tokens(["a b"]))[1]
    assert found == pytest.approx(want)


def test_a_text_s_perplexity_does_not_depend_on_its_neighbours_in_the_batch():
    model = NgramModel.train(TEXTS, 3)
    together = model.perplexities([*TEXTS, ""])
    alone = [model.perplexities([t])[0] for t in TEXTS]
    np.testing.assert_allclose(together[:4], alone)
    assert np.isnan(together[4])


def test_a_saved_model_scores_as_before(tmp_path):
    model = NgramModel.train(TEXTS, 3)
    model.save(tmp_path / "m.npz")
    again = NgramModel.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(model.perplexities(TEXTS), again.perplexities(TEXTS))
    with pytest.raises(JaxptError, match="does not exist"):
        NgramModel.load(tmp_path / "other.npz")
    with pytest.raises(JaxptError, match="no words"):
        NgramModel.train(["...", ""])


def test_repeated_boilerplate_scores_low_and_shuffled_words_score_high(shared):
    with gzip.open(shared / "data/noisy_web/redpajama_c4-rp_1.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    boiler = "Click here to accept our cookie policy and continue to the page you asked for. "
    rng = np.random.default_rng(0)
    test = [t for t in texts[:100] if len(t) > 500]
    model = NgramModel.train([*texts[100:], *[boiler * 3] * 20], 3)
    natural = model.perplexities(test)
    shuffled = model.perplexities([" ".join(rng.permutation(t.split())) for t in test])
    assert (natural < shuffled).mean() > 0.95
    assert model.perplexities([boiler * 5])[0] < np.quantile(natural, 0.05)


def test_both_tails_are_cut_per_language_and_source():
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.lognormal(3, 1, 1000), rng.lognormal(6, 1, 1000)])
    found = cuts(scores, ["en"] * 1000 + ["zh"] * 1000, ["web"] * 2000, Tails(0.1, 0.8))
    for (language, _), part in zip([("en", "web"), ("zh", "web")], [scores[:1000], scores[1000:]]):
        verdicts = [found[language, "web"].verdict(s) for s in part]
        assert [verdicts.count(v) for v in ("low", "keep", "high")] == [100, 700, 200]
    pooled = cuts(scores, ["xx"] * 2000, ["web"] * 2000, Tails(0.1, 0.8))["xx", "web"]
    assert np.mean([pooled.verdict(s) == "high" for s in scores[1000:]]) > 0.35  # one cut for all hits one language


def test_a_small_source_is_cut_by_its_language_and_a_small_language_not_at_all():
    scores = np.concatenate([np.arange(200.0), [1e9] * 3, [np.nan], [7.0]])
    languages = ["en"] * 204 + ["th"]
    sources = ["web"] * 200 + ["blog"] * 4 + ["web"]
    found = cuts(scores, languages, sources, Tails())
    assert [found[k].basis for k in [("en", "web"), ("en", "blog"), ("th", "web")]] == ["source", "language", "none"]
    assert found["en", "blog"].verdict(1e9) == "high"
    assert found["en", "blog"].verdict(np.nan) == "empty"
    assert found["th", "web"].verdict(7.0) == "keep"
    with pytest.raises(JaxptError, match="low < high"):
        cuts(scores, languages, sources, Tails(0.9, 0.1))


def toy_model(tokens, segments):
    """Log-probability -t / 10 of token t, and a trap: windows must never score padding."""
    return np.where(segments > 0, -tokens / 10, -1e9)


@pytest.mark.parametrize("length", [2, 5, 8, 9, 12, 33])
def test_windows_score_every_token_but_the_first_exactly_once(length):
    rng = np.random.default_rng(length)
    ids = [rng.integers(1, 50, length), rng.integers(1, 50, 3), np.array([4]), np.array([], int)]
    scorer = ModelScorer(lambda texts: ids, toy_model, batch_size=2, sequence_length=8)
    found = scorer.perplexities(["", "", "", ""])
    np.testing.assert_allclose(found[:2], [np.exp(i[1:].mean() / 10) for i in ids[:2]])
    assert np.isnan(found[2:]).all()


def test_every_token_of_a_long_text_sees_half_a_window_before_it():
    seen = []

    def spy(tokens, segments):
        seen.append(tokens.copy())
        return np.zeros(tokens.shape)

    ModelScorer(lambda texts: [np.arange(1, 41)], spy, 1, 8).perplexities([""])
    assert [w[0, 0] for w in seen] == list(range(1, 37, 4))[: len(seen)]


def test_a_missing_kenlm_file_is_named(tmp_path):
    with pytest.raises(JaxptError, match=r"none\.arpa does not exist"):
        KenlmScorer(tmp_path / "none.arpa")


def test_kenlm_files_are_scored_as_kenlm_scores_them(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    arpa = tmp_path / "tiny.arpa"
    unigrams = "-1.0\t<unk>\n0\t<s>\t-0.2\n-0.5\t</s>\n-0.3\tcat\t-0.1\n"
    arpa.write_text(f"\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n{unigrams}\n\\2-grams:\n-0.1\tcat cat\n\n\\end\\\n")
    found = KenlmScorer(arpa).perplexities(["Cat cat\ncat", "", "dog"])
    model = kenlm.Model(str(arpa))
    assert found[0] == pytest.approx(10 ** (-(model.score("cat cat") + model.score("cat")) / 5))
    assert np.isnan(found[1])
    assert found[2] > found[0]
