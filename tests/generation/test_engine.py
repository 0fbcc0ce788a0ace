"""The engine: what it continues and judges is what the forward pass of the whole sequence says, for every feature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.generation import InferenceEngine, Request, Sampling
from jaxpt.generation import prefixes as prefixes_module
from jaxpt.generation.detokenize import text_after
from jaxpt.generation.judging import Asked, batches, pieces, rows_with, shared_runs
from jaxpt.models import Compute, forward
from jaxpt.models.specs import param_specs
from jaxpt.sharding import make_mesh, param_shardings
from tests.models.tiny import VARIANTS, random_params

PROMPTS = [[5, 9, 3], [7], [1, 2, 3, 4, 5, 6]]
LLAMA = VARIANTS["llama"]
PARAMS = random_params(LLAMA)
CONTEXT = np.random.default_rng(0).integers(1, 60, 20).tolist()
ASKED = [
    *[([*CONTEXT[:9], i], [3, 4, 5 + i]) for i in range(3)],  # different ends of one beginning
    *[([*CONTEXT[:9], 1], c) for c in ([7], [8, 9, 1, 2, 3])],  # several continuations of one context
    ([4], [5, 6]),
    (CONTEXT, [1]),
]


@pytest.fixture(scope="module")
def engine():
    return InferenceEngine(LLAMA, PARAMS, decode=lambda ids: "".join(chr(96 + i) for i in ids))


def whole(config, params):
    """Log-probabilities [S, V] of rows of at most 32 tokens: padding on the right changes nothing before it."""
    run = jax.jit(lambda t: jax.nn.log_softmax(forward(config, params, t))[0])
    return lambda ids: np.asarray(run(jnp.asarray([[*ids, *[0] * (32 - len(ids))]])))[: len(ids)]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_continued_and_judged_is_what_the_forward_pass_says(name):
    config, params = VARIANTS[name], random_params(VARIANTS[name])
    made = InferenceEngine(config, params)
    read = whole(config, params)
    for prompt, done in zip(PROMPTS, made.generate([Request(p, 5, logprobs=3) for p in PROMPTS])):
        ids = list(prompt)
        for token, logprob, top in zip(done.tokens, done.logprobs, done.top):
            want = read(ids)[-1]
            assert token == want.argmax()
            np.testing.assert_allclose([logprob, top[0][1]], want.max(), atol=2e-5)
            assert [i for i, _ in top] == np.argsort(-want)[:3].tolist()
            ids.append(token)
    for (context, continuation), got in zip(ASKED, made.score(ASKED)):
        want = read([*context, *continuation])[len(context) - 1 : -1]
        np.testing.assert_allclose(got.logprobs, want[np.arange(len(continuation)), continuation], atol=2e-5)
        assert got.greedy.tolist() == (want.argmax(-1) == continuation).tolist()


def test_a_continuation_that_saw_another_would_be_noticed(engine):
    right = engine.score(ASKED)
    rows = rows_with([Asked(i, tuple(c), tuple(d)) for i, (c, d) in enumerate(ASKED)])
    joined = [([*r.context, *r.asked[0].continuation], list(r.asked[1].continuation)) for r in rows if len(r.asked) > 1]
    (row,) = joined
    assert abs(engine.score([row])[0].total - right[ASKED.index(([*CONTEXT[:9], 1], row[1]))].total) > 1e-3


def test_long_contexts_and_continuations_go_through_in_pieces(monkeypatch):
    monkeypatch.setattr(prefixes_module, "CHUNK", 8)
    for module in ("judging", "continuing"):
        monkeypatch.setattr(f"jaxpt.generation.{module}.CHUNK", 8)
    asked = [(CONTEXT[:3], CONTEXT[3:]), (CONTEXT[:19], [5, 6, 7]), (CONTEXT[:19], [5])]
    engine = InferenceEngine(LLAMA, PARAMS)
    read = whole(LLAMA, PARAMS)
    for (context, continuation), got in zip(asked, engine.score(asked)):
        want = read([*context, *continuation])[len(context) - 1 : -1]
        np.testing.assert_allclose(got.logprobs, want[np.arange(len(continuation)), continuation], atol=2e-5)
    (done,) = engine.generate([Request(CONTEXT, 4)])
    ids = list(CONTEXT)
    for token in done.tokens:
        assert token == read(ids)[-1].argmax()
        ids.append(token)


def test_an_answer_is_exactly_that_of_the_request_alone(engine):
    some = [Request(p, 6, Sampling(0.9, top_k=20), seed=3, logprobs=0) for p in PROMPTS]
    slots = engine.continuing(4, 64, top=0)

    def answers(requests):
        out = {}
        for i, r in enumerate(requests):
            out |= dict(slots.admit(i, r))
        while slots.going:
            out |= dict(slots.advance())
        return out

    together = answers(some)
    for i, r in enumerate(some):
        alone = answers([r])[0]
        assert (alone.tokens, alone.logprobs) == (together[i].tokens, together[i].logprobs)
    assert answers([Request(PROMPTS[0], 6, Sampling(0.9, top_k=20), seed=4)])[0].tokens != together[0].tokens


def test_more_requests_than_slots_each_get_their_own_answer():
    few, many = InferenceEngine(LLAMA, PARAMS, slots=2), InferenceEngine(LLAMA, PARAMS, slots=8)
    requests = [Request([1 + i, 2], 1 + i % 5, Sampling(1.0), seed=i) for i in range(7)]
    seen = []
    got = few.generate(requests, lambda i, _: seen.append(i))
    assert [c.tokens for c in got] == [c.tokens for c in many.generate(requests)]
    assert sorted(seen) == list(range(7))
    assert seen != list(range(7))  # short ones leave their slot early
    assert [len(c.tokens) for c in got] == [1 + i % 5 for i in range(7)]


def test_a_stop_text_ends_a_continuation_across_tokens(engine):
    (free,) = engine.generate([Request(PROMPTS[0], 8)])
    text = engine.decode(free.tokens)
    (stopped,) = engine.generate([Request(PROMPTS[0], 8, stop_texts=("never", text[2:4]))])
    at = text.index(text[2:4])
    assert stopped.text == text[:at]
    assert stopped.tokens == free.tokens[: at + 2]
    assert (stopped.reason, free.reason) == ("stop", "length")
    (ended,) = engine.generate([Request(PROMPTS[0], 8, stop_ids=(free.tokens[1],), stop_texts=("never",))])
    assert ended.tokens == free.tokens[: free.tokens.index(free.tokens[1]) + 1]
    assert ended.text == engine.decode(ended.tokens[:-1])


def test_a_cancelled_request_frees_its_place(engine):
    slots = engine.continuing(1, 64)
    slots.admit(7, Request(PROMPTS[0], 20))
    assert (slots.free, slots.going) == (0, [7])
    slots.cancel(7)
    assert (slots.free, slots.advance()) == (1, [])
    slots.admit(8, Request(PROMPTS[1], 2))
    assert [n for n, _ in slots.advance()] == [8]


def test_what_prompts_share_is_read_once(engine, monkeypatch):
    shared = [int(i) for i in np.random.default_rng(1).integers(1, 60, 70)]
    requests = [Request([*shared, i], 3) for i in (1, 2, 3)]
    want = [c.tokens for c in engine.generate(requests)]
    lengths = []
    of = prefixes_module.Prefixes.of
    monkeypatch.setattr(prefixes_module.Prefixes, "of", lambda self, t: lengths.append(len(t)) or of(self, t))
    assert [c.tokens for c in engine.generate(requests, share_prefix=True)] == want
    assert set(lengths) == {70}


@pytest.mark.parametrize("mesh", [{"fsdp": 2, "tensor": 2}, {"data": 2}])
def test_sharded_over_a_mesh_the_answers_are_the_same(engine, mesh):
    n = int(np.prod(list(mesh.values())))
    mesh = make_mesh(mesh, jax.devices()[:n])
    params = jax.device_put(PARAMS, param_shardings(param_specs(LLAMA), mesh, allow_replicated=("embed/table", "head")))
    sharded = InferenceEngine(LLAMA, params, mesh=mesh)
    requests = [Request(p, 4) for p in PROMPTS]
    assert [c.tokens for c in sharded.generate(requests)] == [c.tokens for c in engine.generate(requests)]
    for got, want in zip(sharded.score(ASKED), engine.score(ASKED)):
        np.testing.assert_allclose(got.logprobs, want.logprobs, atol=2e-5)


def test_on_a_cpu_bfloat16_is_its_rounded_weights_held_as_float32(engine):
    rounded = InferenceEngine(LLAMA, PARAMS, Compute(dtype="bfloat16"))
    gains = ("attn_norm", "mlp_norm")
    for layer, exact in zip(rounded.weights.layers, engine.weights.layers):
        for name, a in layer.items():
            assert a.dtype == jnp.float32
            want = exact[name] if name in gains else exact[name].astype(jnp.bfloat16).astype(jnp.float32)
            np.testing.assert_array_equal(a, want)
    assert rounded.weights.bytes == engine.weights.bytes
    assert not np.array_equal(rounded.weights.layers[0]["q"], engine.weights.layers[0]["q"])


def test_what_cannot_be_judged_is_named(engine):
    with pytest.raises(JaxptError, match="continuation 1 has no tokens"):
        engine.score([([1], [2]), ([1], [])])
    with pytest.raises(JaxptError, match="context 0 has token id 61"):
        engine.score([([61], [2])])
    with pytest.raises(JaxptError, match="prompt 0 asks for 0 new tokens"):
        engine.generate([Request([1], 0)])
    with pytest.raises(JaxptError, match="stop texts, which need a tokenizer"):
        InferenceEngine(LLAMA, PARAMS).generate([Request([1], 1, stop_texts=("a",))])


def test_rows_share_what_pays_and_batches_keep_the_budget():
    shots = tuple(range(1, 60)) * 4
    asked = [Asked(i, (*shots, 100 + i), (1, 2)) for i in range(20)] + [Asked(20 + i, (7, i), (3,)) for i in range(4)]
    runs = list(shared_runs(rows_with(asked)))
    assert [(len(prefix), len(rows)) for prefix, rows in runs] == [(len(shots), 20), (0, 4)]
    for some, count, length in batches(runs[0][1], 64, ways=2):
        assert count % 2 == 0
        assert count * length <= 64
        assert all(row.length <= length for row in some)
    assert [len(p.continuation) for p in pieces(Asked(0, (1,), tuple(range(1100))))] == [512, 512, 76]


def test_a_bias_is_added_before_tokens_are_drawn_and_not_to_logprobs(engine):
    (free,) = engine.generate([Request(PROMPTS[0], 4, logprobs=3)])
    (best, _), (second, its) = free.top[0][:2]
    pair = [Request(PROMPTS[0], 4, logprobs=3, logit_bias=((best, -50.0),)), Request(PROMPTS[0], 4, logprobs=3)]
    moved, beside = engine.generate(pair)
    assert moved.tokens[0] == second
    np.testing.assert_allclose(moved.logprobs[0], its, atol=1e-5)  # of the model itself
    assert best not in moved.tokens
    assert beside.tokens == free.tokens
    np.testing.assert_allclose(beside.logprobs, free.logprobs, atol=1e-5)
    with pytest.raises(JaxptError, match="logit_bias has token id 61"):
        engine.generate([Request([1], 1, logit_bias=((61, 1.0),))])


def test_a_prompt_that_is_read_in_pieces_continues_and_judges_as_elsewhere(engine):
    prompt = np.random.default_rng(2).integers(1, 60, 540).tolist()
    reader = engine.reader(prompt, top=2, most=4)
    sizes = []
    while not reader.done:
        sizes.append(reader.step())
    assert sizes == [512, 28]
    (want,) = engine.score([(prompt[:1], prompt[1:])])
    np.testing.assert_allclose(reader.logprobs, want.logprobs, atol=3e-5)
    assert [top[0][0] == token for top, token in zip(reader.top, prompt[1:])] == want.greedy.tolist()
    assert {len(top) for top in reader.top} == {2}
    slots = engine.continuing(2, 640)
    ended = dict(slots.admit_read(0, Request(prompt, 3), reader))
    while slots.going:
        ended |= dict(slots.advance())
    assert ended[0].tokens == engine.generate([Request(prompt, 3)])[0].tokens
    assert slots.one_token(Request(prompt, 1), reader).tokens == ended[0].tokens[:1]


def test_a_text_behind_others_keeps_what_a_tokenizer_leaves_out_at_the_beginning():
    words = {1: "▁a", 2: "▁b", 3: "c", 4: "\ufffd"}

    def decode(ids):
        return "".join(words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    assert text_after(decode, (), [2]) == "b"
    assert text_after(decode, (1,), [2]) == " b"
    assert text_after(decode, (1, 4), [2]) == "\ufffd b"
    assert text_after(lambda ids: "x" * len(ids) if len(ids) < 2 else "y", (1,), [2]) == "x"
