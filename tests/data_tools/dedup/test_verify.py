"""Verification: near-duplicates go, templates and chained strangers stay, and the dial does what it says."""

import numpy as np
import pytest

from data_tools.dedup import minhash, verify
from data_tools.dedup import shingles as sh
from jaxpt.errors import JaxptError


def words(rng, count, vocabulary=20000):
    return [f"w{i}" for i in rng.integers(0, vocabulary, count)]


def edited(rng, text, edits):
    """Replaces `edits` scattered words."""
    out = list(text)
    for at in rng.choice(len(out), edits, replace=False):
        out[at] = f"new{rng.integers(1 << 30)}"
    return out


def judge(texts, level):
    texts = [t if isinstance(t, str) else " ".join(t) for t in texts]
    tokens = minhash.hash_tokens(texts)
    signatures = minhash.signatures_of_tokens(tokens, minhash.Scheme())
    units = list(range(len(texts)))
    return list(verify.judge(units, signatures, lambda i: verify.Profile(tokens[i]), verify.level(level)))


def dropped(texts, level="balanced"):
    return [v.unit for v in judge(texts, level) if v.anchor != v.unit]


def test_the_n_grams_of_one_text_are_those_of_many():
    tokens = minhash.hash_tokens(["", "a", "a b", "a b c", "a b c d e f a b c d"], "numpy")
    for width in (1, 3, 5, 8):
        many = sh.ngrams(tokens, width)
        assert all((sh.ngrams_of_one(tokens[i], width) == many[i]).all() for i in range(len(tokens)))
        assert [len(sh.ngrams_of_one(tokens[i], width)) for i in range(len(tokens))] == many.lengths.tolist()


def test_a_text_with_scattered_edits_is_dropped_and_the_evidence_is_exact():
    rng = np.random.default_rng(0)
    base = words(rng, 300)
    other = list(base)
    other[100] = "changed"
    verdict = judge([base, other], "balanced")[1]
    assert verdict.anchor == 0
    assert verdict.evidence == verify.Evidence(jaccard=291 / 301, covered=299 / 300, new_run=1, tokens=300)


def test_texts_of_one_template_stay_although_most_of_each_is_shared():
    rng = np.random.default_rng(1)
    frame = words(rng, 400)
    texts = [frame[:200] + words(rng, 25) + frame[200:] for _ in range(60)]
    assert dropped(texts) == []
    assert dropped(texts, "strict") == []
    assert len(dropped(texts, "harsh")) == 59  # when in doubt, drop


def test_short_slots_of_a_template_stay_in_a_crowd_and_go_in_a_pair():
    rng = np.random.default_rng(2)
    frame = words(rng, 400)
    texts = [frame[:200] + words(rng, 8) + frame[200:] for _ in range(40)]
    assert dropped(texts) == []
    assert dropped(texts[:2]) == [1]


def test_a_crowd_of_copies_with_another_date_goes():
    rng = np.random.default_rng(3)
    frame = words(rng, 200)
    texts = [[*frame[:100], f"day{i}", *frame[100:]] for i in range(40)]
    assert dropped(texts) == list(range(1, 40))


def test_a_chain_of_candidates_does_not_drop_its_far_end():
    """Each text shares four fifths with the next one; the first and the last have nothing in common."""
    rng = np.random.default_rng(4)
    long = words(rng, 2000)
    chain = [long[i : i + 500] for i in range(0, 1500, 250)]
    assert dropped(chain) == []


def test_a_text_contained_in_another_is_dropped_when_certain_and_one_new_word_saves_it():
    rng = np.random.default_rng(5)
    base = words(rng, 300)
    assert dropped([base, base[:250]], "certain") == [1]
    assert dropped([base, [*base[:250], "news"]], "certain") == []
    assert dropped([base, [*base[:250], "news"]], "strict") == [1]


def test_word_order_counts_in_repetitive_text():
    rng = np.random.default_rng(6)
    frame = words(rng, 8)
    text = frame * 40
    shuffled = [w for _ in range(40) for w in rng.permutation(frame)]
    assert verify.Profile(minhash.hash_tokens([" ".join(text)])[0]).repetitive
    assert dropped([text, shuffled], "strict") == []
    assert dropped([text, frame * 39], "strict") == [1]


@pytest.mark.parametrize("level", ["certain", "strict", "balanced", "harsh"])
def test_levels_are_ordered_and_unrelated_texts_always_stay(level):
    rng = np.random.default_rng(7)
    base = words(rng, 300)
    variants = [base, *(edited(rng, base, n) for n in (1, 3, 6, 9, 14, 60)), words(rng, 300)]
    found = dropped(variants, level)
    assert 7 not in found
    assert 6 not in found
    order = list(verify.LEVELS)
    harsher = order[min(order.index(level) + 1, 3)]
    assert set(found) <= set(dropped(variants, harsher))


def test_chinese_text_with_one_edit_goes_and_other_chinese_text_stays():
    rng = np.random.default_rng(8)
    text = "".join(chr(0x4E00 + i) for i in rng.zipf(1.3, 400) % 2000)
    other = "".join(chr(0x4E00 + i) for i in rng.zipf(1.3, 400) % 2000)
    assert dropped([text, text[:150] + "龘" + text[151:], other]) == [1]


def test_short_texts_compare_by_what_they_have():
    assert dropped(["one two", "One, two!", "two one", "one"]) == [1, 3]


def test_a_copy_in_a_crowd_is_found_by_its_bands_however_many_texts_were_kept_before_it():
    """A hundred texts of one template, and then copies of some of them."""
    rng = np.random.default_rng(9)
    frame = words(rng, 200)
    texts = [[*frame[:100], *words(rng, 30), *frame[100:]] for _ in range(100)]
    texts += [[*texts[i][:50], "other", *texts[i][51:]] for i in range(0, 100, 20)]
    want = {100 + k: 20 * k for k in range(5)}
    tokens = minhash.hash_tokens([" ".join(t) for t in texts])
    signatures = minhash.signatures_of_tokens(tokens, minhash.Scheme())

    def found(**limits):
        profile = lambda i: verify.Profile(tokens[i])  # noqa: E731
        seen = verify.judge(range(105), signatures, profile, verify.level("balanced"), **limits)
        return {v.unit: v.anchor for v in seen if v.anchor != v.unit}

    assert found() == found(most=16) == want
    assert found(most=16, room=1) == want  # nothing remembered, the same result
    blind = np.tile(signatures[:1], (105, 1))  # without signatures that tell them apart only the first 16 are seen
    seen = verify.judge(range(105), blind, lambda i: verify.Profile(tokens[i]), verify.level("balanced"), most=16)
    assert sum(v.anchor != v.unit for v in seen) == 1


def test_an_unknown_level_names_its_neighbour():
    with pytest.raises(JaxptError, match="did you mean 'strict'"):
        verify.level("strickt")
