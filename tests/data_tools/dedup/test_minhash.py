"""Signatures: one definition on every path, the error that theory predicts, and datasketch's own numbers."""

import gzip
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.dedup import bands, folding, minhash, shingles
from data_tools.dedup.shingles import Ragged
from jaxpt.errors import JaxptError

ODD = [
    "",
    " \n\t",
    "a",
    "one two three",
    "One, TWO - three!",
    "é",
    "e\u0301",
    "中文没有空格abc中 文",
    "ภาษาไทย",
    "\ud800x\x00y",
    "ﬁ Ａ１ ÉCOLE",
    "word " * 300,
]


def random_texts(rng, count, words=200, vocabulary=5000):
    return [" ".join(f"w{i}" for i in rng.integers(0, vocabulary, words)) for _ in range(count)]


FOLDED = ["a", "x", "é", "-", "\n", " ", "\t", "\u0301", "\u00ad", "\u200b", "中", "国", "。", "\u1112", "\u1161", "か"]
FOLDED += ["\u3099", "ﬁ", "\u2010", "\ud83d", "😀", "ｶ", "ﾞ"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=80) | st.text(st.sampled_from(FOLDED), max_size=30), max_size=12))
def test_numpy_and_compiled_paths_give_the_same_bits(texts):
    pytest.importorskip("numba")
    np.testing.assert_array_equal(minhash.signatures(texts, path="numpy"), minhash.signatures(texts, path="compiled"))
    ours, theirs = minhash.hash_tokens(texts, "compiled"), minhash.hash_tokens(texts, "numpy")
    assert (ours.values.tolist(), ours.offsets.tolist()) == (theirs.values.tolist(), theirs.offsets.tolist())


def test_texts_longer_than_a_block_are_the_same_on_both_paths_and_in_any_company():
    pytest.importorskip("numba")
    long = ["x" * (shingles.BLOCK + 5), "ab, " * (shingles.BLOCK // 3), *ODD]
    alone = np.concatenate([minhash.signatures([t], path="numpy") for t in long])
    np.testing.assert_array_equal(alone, minhash.signatures(long, path="compiled"))


def test_a_signature_does_not_depend_on_the_texts_around_it():
    together = minhash.signatures(ODD, path="numpy")
    alone = np.concatenate([minhash.signatures([t], path="numpy") for t in ODD])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.newest  # runs on Python 3.12 too, whose Unicode database is another one
def test_signatures_are_pinned_for_ever():
    """A stored signature must stay comparable: if this changes, so must the name of the scheme."""
    digest = hashlib.sha256(minhash.signatures(ODD, path="numpy").astype("<u4").tobytes()).hexdigest()
    assert digest == "485f7e8daf9d18547a632407eb6eaba995564d6358abe5c96e8d795cab659a07"


def test_case_punctuation_spacing_and_composed_accents_fold_but_digits_and_words_do_not():
    sign = lambda text: minhash.signatures([text], path="numpy")[0].tolist()  # noqa: E731
    base = "The Café has 12 open tables for you today"
    assert sign("the  cafe\u0301 HAS 12 open-tables, for you today!") == sign(base)
    assert sign(base.replace("12", "13")) != sign(base)
    assert sign(base.replace("open", "shut")) != sign(base)


def test_a_table_from_another_unicode_version_is_refused(monkeypatch):
    monkeypatch.setattr(folding, "DIGEST", "0" * 16)
    folding.table.cache_clear()
    with pytest.raises(RuntimeError, match="character folding table has digest"):
        folding.table()
    folding.table.cache_clear()


def test_unspaced_text_has_one_token_per_character_and_spaced_text_one_per_word():
    assert minhash.hash_tokens(["深度学习很有趣", "deep learning is fun", "用 JAX 训练"], "numpy").lengths.tolist() == [
        7,
        4,
        4,
    ]


def test_one_changed_character_of_a_chinese_text_leaves_it_similar():
    rng = np.random.default_rng(0)
    text = "".join(chr(0x4E00 + i) for i in rng.integers(0, 3000, 400))
    other = text[:200] + "龘" + text[201:]
    one, two = minhash.signatures([text, other])
    assert minhash.similarity(one, two) > 0.9


def test_signatures_load_as_datasketch_minhash_and_agree_with_it():
    datasketch = pytest.importorskip("datasketch")
    texts = random_texts(np.random.default_rng(1), 5, 50)
    elements = shingles.shingles(minhash.hash_tokens(texts, "numpy"))
    for i, signature in enumerate(minhash.signatures(texts)):
        theirs = datasketch.MinHash(num_perm=112, seed=1, scheme="affine32", hashfunc=int)
        theirs.update_batch(elements[i].tolist())
        np.testing.assert_array_equal(theirs.hashvalues, signature)
        ours = minhash.to_datasketch(signature)
        np.testing.assert_array_equal(ours.permutations, theirs.permutations)
        assert ours.jaccard(theirs) == 1.0


def pairs_of_known_jaccard(rng, count):
    """Returns sets as one Ragged (pair i at 2i, 2i + 1) and the true similarities."""
    sets, truth = [], []
    for _ in range(count):
        size, share = int(rng.integers(60, 400)), rng.uniform(0.1, 0.95)
        common = int(size * share)
        draw = rng.integers(0, 1 << 32, 2 * size - common, dtype=np.uint32)
        sets += [draw[:size], np.concatenate([draw[:common], draw[size:]])]
        truth.append(common / len(draw))
    lengths = [len(s) for s in sets]
    return Ragged(np.concatenate(sets), np.concatenate([[0], np.cumsum(lengths)])), np.array(truth)


def test_the_estimator_is_unbiased_and_its_error_is_what_theory_says():
    sets, truth = pairs_of_known_jaccard(np.random.default_rng(2), 3000)
    signatures = minhash.signatures_of_sets(sets, minhash.Scheme())
    error = minhash.similarity(signatures[0::2], signatures[1::2]) - truth
    theory = np.sqrt((truth * (1 - truth)).mean() / 112)
    assert abs(error.mean()) < 3 * theory / np.sqrt(len(truth))
    assert np.sqrt((error**2).mean()) == pytest.approx(theory, rel=0.05)


def test_a_scheme_without_permutations_would_fail_the_estimator_test():
    sets, truth = pairs_of_known_jaccard(np.random.default_rng(2), 300)
    flat = minhash.signatures_of_sets(sets, minhash.Scheme(permutations=1)).repeat(112, axis=1)
    error = minhash.similarity(flat[0::2], flat[1::2]) - truth
    assert np.sqrt((error**2).mean()) > 5 * np.sqrt((truth * (1 - truth)).mean() / 112)


def test_bands_find_pairs_as_often_as_the_formula_says():
    sets, truth = pairs_of_known_jaccard(np.random.default_rng(3), 3000)
    signatures = minhash.signatures_of_sets(sets, minhash.Scheme())
    layout = bands.Bands()
    found = (bands.keys(signatures[0::2], layout) == bands.keys(signatures[1::2], layout)).any(axis=0)
    for low in (0.5, 0.6, 0.7, 0.8):
        take = (truth >= low) & (truth < low + 0.1)
        want = np.mean([layout.probability(j) for j in truth[take]])
        assert found[take].mean() == pytest.approx(want, abs=0.07)
    assert layout.probability(0.8) == pytest.approx(0.924, abs=0.001)


def test_band_parameters_come_from_datasketch_and_bad_ones_are_refused():
    pytest.importorskip("datasketch")
    chosen = bands.choose(0.8, 112)
    assert chosen.bands * chosen.rows <= 112
    assert chosen.probability(0.9) > 0.9 > 0.1 > chosen.probability(0.6) / 2
    with pytest.raises(JaxptError, match="inside"):
        bands.choose(1.5)
    with pytest.raises(JaxptError, match="need 120 signature values"):
        bands.keys(minhash.signatures(["a b c"]), bands.Bands(15, 8))


def test_an_unknown_path_is_named():
    with pytest.raises(JaxptError, match="'gpu' is unknown"):
        minhash.signatures(["a"], path="gpu")


def test_real_text_has_the_same_signatures_on_both_paths(shared):
    pytest.importorskip("numba")
    for name in ("chinese/d2l_zh_md", "noisy_web/dolma_cc_en_head"):
        with gzip.open(shared / f"data/{name}.jsonl.gz", "rt") as lines:
            texts = [json.loads(line)["text"] for line, _ in zip(lines, range(20))]
        a, b = minhash.signatures(texts, path="numpy"), minhash.signatures(texts, path="compiled")
        np.testing.assert_array_equal(a, b)
