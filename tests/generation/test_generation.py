"""Generation: greedy equals the forward pass, filters keep what they say, draws follow the probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.generation import Sampling, continue_texts, filter_logits, generate
from jaxpt.generation.ends import end_ids
from jaxpt.models import Model, forward
from tests.models.tiny import VARIANTS, random_params

C = VARIANTS["llama"]
PARAMS = random_params(C)
PROMPTS = [[5, 9, 3], [7], [1, 2, 3, 4, 5, 6]]


def test_greedy_continues_as_the_forward_pass_does():
    made = generate(C, PARAMS, PROMPTS, 6, sampling=Sampling(0))
    for prompt, new in zip(PROMPTS, made):
        ids = list(prompt)
        for token in new:
            assert token == int(jnp.argmax(forward(C, PARAMS, jnp.array([ids]))[0, -1]))
            ids.append(token)


def test_a_prompt_is_continued_alike_alone_and_among_others():
    together = generate(C, PARAMS, PROMPTS, 5, seed=3)
    assert generate(C, PARAMS, PROMPTS[:1], 5, seed=3) == together[:1]
    assert generate(C, PARAMS, PROMPTS, 5, seed=4) != together


def test_a_sequence_ends_with_the_first_stop_token():
    new = generate(C, PARAMS, PROMPTS, 6, sampling=Sampling(0))
    stop = new[0][2]
    again = generate(C, PARAMS, PROMPTS, 6, sampling=Sampling(0), stop_ids=[stop])
    assert again[0] == new[0][: new[0].index(stop) + 1]


def test_top_k_and_the_nucleus_keep_exactly_the_likeliest():
    probabilities = jnp.array([[0.1, 0.4, 0.05, 0.3, 0.15], [0.9, 0.02, 0.03, 0.01, 0.04]])
    logits = jnp.log(probabilities)

    def kept(sampling):
        return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in np.asarray(filter_logits(logits, sampling))]

    assert kept(Sampling(top_k=2)) == [{1, 3}, {0, 4}]
    assert kept(Sampling(top_p=0.6)) == [{1, 3}, {0}]
    assert kept(Sampling(top_p=0.75)) == [{1, 3, 4}, {0}]
    assert kept(Sampling(top_k=3, top_p=0.99)) == [{1, 3, 4}, {0, 2, 4}]
    np.testing.assert_allclose(filter_logits(logits, Sampling(0.5)), logits / 0.5)


def test_draws_follow_the_probabilities():
    first = [generate(C, PARAMS, [[5, 9, 3]] * 64, 1, seed=s) for s in range(20)]
    counts = np.bincount(np.array(first).ravel(), minlength=61)
    wanted = np.asarray(jax.nn.softmax(forward(C, PARAMS, jnp.array([[5, 9, 3]]))[0, -1]))
    n = counts.sum()
    chi2 = np.sum((counts - n * wanted) ** 2 / (n * wanted))
    assert chi2 < 61 + 5 * np.sqrt(2 * 61)  # five deviations above the mean of chi-square with 60 degrees
    assert np.sum((counts - n / 61) ** 2 / (n / 61)) > 500  # uniform draws would be noticed


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -2}, {"top_p": 0}, {"top_p": 1.5}])
def test_sampling_out_of_range_is_named(bad):
    with pytest.raises(JaxptError, match=f"^{next(iter(bad))}="):
        Sampling(**bad)


def test_prompts_that_cannot_be_are_named():
    with pytest.raises(JaxptError, match="prompt 1 has no tokens"):
        generate(C, PARAMS, [[1], []], 3)
    with pytest.raises(JaxptError, match="prompt 0 has token id 61"):
        generate(C, PARAMS, [[61]], 3)


class Letters:
    """A letter a token, `a` is 1; no BOS."""

    bos_id, eos_id = None, 0

    def encode_prompt(self, text, bos=True, control_tokens=True):
        return [ord(c) - 96 for c in text]

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


def test_texts_are_continued_and_end_before_eos():
    model = Model(C, PARAMS, Letters())
    one, two = continue_texts(model, ["abc", "b"], 5, sampling=Sampling(0))
    new = generate(C, PARAMS, [[1, 2, 3], [2]], 5, sampling=Sampling(0), stop_ids=[0])
    assert one == "abc" + Letters().decode([i for i in new[0] if i])
    assert two == "b" + Letters().decode([i for i in new[1] if i])


@pytest.mark.parametrize("file", ["generation_config", "config"])
def test_every_end_token_that_a_model_was_imported_with_ends_a_generation(file):
    whole = generate(C, PARAMS, [[1, 2, 3]], 5, sampling=Sampling(0), stop_ids=[])[0]
    entry = {"op": "import", file: {"eos_token_id": [whole[2], 10**9]}}
    model = Model(C, PARAMS, Letters(), (entry, {"op": "subclone"}))
    assert end_ids(model) == sorted({0, whole[2]})
    (text,) = continue_texts(model, ["abc"], 5, sampling=Sampling(0))
    assert text == "abc" + Letters().decode(whole[: whole.index(whole[2])])
    one = {"op": "import", "generation_config": {"eos_token_id": whole[1]}, "config": {"eos_token_id": whole[2]}}
    assert end_ids(Model(C, PARAMS, Letters(), (one,))) == sorted({0, whole[1]})
    assert end_ids(Model(C, PARAMS, Letters(), ())) == [0]
    with pytest.raises(JaxptError, match="eos_token_id='</s>', which is neither an id"):
        end_ids(Model(C, PARAMS, Letters(), ({"op": "import", file: {"eos_token_id": "</s>"}},)))


def test_a_prompt_of_a_token_that_the_model_lacks_is_named():
    class Larger(Letters):
        def encode_prompt(self, text, bos=True, control_tokens=True):
            return [1, C.vocab_size + 2]

        def piece(self, i):
            return "<image>"

    with pytest.raises(JaxptError, match=f"holds '<image>' .token {C.vocab_size + 2}., the model's vocabulary has"):
        continue_texts(Model(C, PARAMS, Larger()), ["abc"], 5)


def test_a_model_without_a_tokenizer_continues_no_text():
    with pytest.raises(JaxptError, match="the model has no tokenizer"):
        continue_texts(Model(C, PARAMS), ["abc"], 5)
