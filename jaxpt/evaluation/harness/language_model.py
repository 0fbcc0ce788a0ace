"""A jaxpt model as a language model of `lm_eval`: log-likelihoods, also rolling, generation, chat templates."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jaxpt.cli.terminal import progress
from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness.kept import KeptAnswers
from jaxpt.evaluation.option_names import FLAGS, OptionNames
from jaxpt.generation import Completion, InferenceEngine, Request, Sampling
from jaxpt.tokenizers.interface import Tokenizer

Pair = tuple[list[int], list[int]]  # tokens of a context and of a continuation
LEADING_SPACE = (
    "keep_leading_space"  # of generation_kwargs: a SentencePiece tokenizer drops the first, and code needs it
)
NOTHING = {"loglikelihood": (0.0, False), "loglikelihood_rolling": 0.0, "generate_until": ""}
MOST_NEW_TOKENS = 256  # where a task does not say, as in lm_eval's own backends


class JaxptModel(TemplateLM):
    """A model laid out by an engine, with its tokenizer.

    A context and continuation that are longer than the model together lose tokens of the context from the left, as in
    lm_eval's Hugging Face backend; how many requests that befell is in `truncated`. An empty context is BOS, or EOS
    where there is none.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        tokenizer: Tokenizer,
        ends: Sequence[int],
        *,
        max_length: int | None = None,
        kept: KeptAnswers | None = None,
        name: str = "",
        agree: Callable[[np.ndarray], np.ndarray] = lambda known: known,
        said: OptionNames = FLAGS,
    ):
        """Takes an engine.

        Args:
            engine: the model; it decodes with the same tokenizer.
            tokenizer: its tokenizer.
            ends: ids that end a generation.
            max_length: tokens that the model reads at once; default: its positions.
            kept: answers that need not be computed again.
            name: what results call the model.
            agree: of several processes, gives each what the first one says it keeps, bool `[N]`. What the others do not
                keep themselves they answer with nothing, as the first one reports.
            said: how messages name options.

        Raises:
            JaxptError: a tokenizer with neither BOS nor EOS.
        """
        super().__init__()
        self.engine, self.words, self.ends, self.name = engine, tokenizer, tuple(ends), name
        self.max_length = max_length or engine.config.max_positions
        self.kept = kept or KeptAnswers(None, {})
        self.truncated, self.agree, self.said = 0, agree, said
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if first is None:
            raise JaxptError(
                f"{name}: its tokenizer has neither BOS nor EOS, one of which begins a text without context"
            )
        self._first = first
        self._special = {i for i, _, _ in tokenizer.special_tokens()}
        self.encode = functools.lru_cache(maxsize=10_000)(self._encode)

    @property
    def eot_token_id(self) -> int:
        """EOS, or BOS where there is none."""
        return self._first if self.words.eos_id is None else self.words.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return self._first

    @property
    def max_gen_toks(self) -> int:
        """New tokens where a task does not say."""
        return MOST_NEW_TOKENS

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval keeps requests under."""
        return self.words.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Returns the source of the tokenizer's template.

        Raises:
            JaxptError: a template is asked for by a name that the tokenizer does not have, or it has none.
        """
        if not chat_template:
            return None
        name = "default" if chat_template is True else chat_template
        if name not in self.words.chat_templates:
            raise JaxptError(f"{self.name}: its tokenizer has no chat template {name!r}")
        return self.words.chat_templates[name]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Returns a conversation as its template writes it; without a generation prompt it ends with the last turn."""
        text = self.words.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Returns the ids of a text, beginning with BOS as the tokenizer does, unless told otherwise."""
        return list(self.encode(string, add_special_tokens is not False))

    def _encode(self, string: str, bos: bool) -> tuple[int, ...]:
        return tuple(self.words.encode_prompt(string, bos))

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Returns (log-probability, whether greedy decoding gives it) of each request's (context, continuation)."""

        def compute(some: list[Any], put: Callable[[int, Any], None]) -> None:
            pairs = [self._pair(*r.args) for r in some]
            self.engine.score(pairs, lambda i, s: put(i, [s.total, s.all_greedy]))

        keyed = self._keyed("loglikelihood", requests)
        return [(float(a), bool(b)) for a, b in self._answers("loglikelihood", keyed, compute)]

    def continuation_length(self, continuation: str) -> int:
        """Returns the tokens of a continuation."""
        return len(self.tok_encode(continuation, add_special_tokens=False))

    def _pair(self, context: str, continuation: str) -> Pair:
        if context:
            before, after = self._encode_pair(context, continuation)
        else:
            after = self.tok_encode(continuation, add_special_tokens=False)
            before = [self._first]
            if after[:1] == before:
                before, after = after[:1], after[1:]
        if not after:
            raise JaxptError(
                f"the continuation {continuation!r} of {context[-40:]!r} has no tokens, it cannot be scored"
            )
        return self._fitting(before, after)

    def _fitting(self, before: list[int], after: list[int]) -> Pair:
        if len(after) > self.max_length:
            raise JaxptError(
                f"a continuation has {len(after):,} tokens, more than the {self.max_length:,} that the model reads "
                f"({self.said['max_length']})"
            )
        surplus = len(before) + len(after) - (self.max_length + 1)
        if surplus > 0:
            self.truncated += 1
        return before[max(0, surplus) :], after

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitting(before, after) for _, before, after in requests]
        return [(s.total, s.all_greedy) for s in self.engine.score(pairs)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Returns the log-probability of each whole text, in windows of the model's length that do not overlap."""

        def compute(some: list[Any], put: Callable[[int, Any], None]) -> None:
            windows: list[Pair] = []
            owner: list[int] = []
            for i, r in enumerate(some):
                ids = self.tok_encode(r.args[0])
                made = get_rolling_token_windows(
                    token_list=ids, prefix_token=self._first, max_seq_len=self.max_length, context_len=1
                )
                cut = [make_disjoint_window(pair) for pair in made]
                windows += [(list(a), list(b)) for a, b in cut]
                owner += [i] * len(cut)
            left = {i: owner.count(i) for i in range(len(some))}
            total = dict.fromkeys(left, 0.0)

            def done(n: int, s: Any) -> None:
                i = owner[n]
                total[i], left[i] = total[i] + s.total, left[i] - 1
                if not left[i]:
                    put(i, total[i])

            for i, missing in left.items():
                if not missing:
                    put(i, 0.0)
            self.engine.score(windows, done)

        keyed = self._keyed("loglikelihood_rolling", requests)
        return [float(x) for x in self._answers("loglikelihood_rolling", keyed, compute)]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns the continuation of each request's context, before the first of its stop texts.

        A sampled one has a seed of its own, from the request and how often it was asked before.
        """

        def compute(some: list[Any], put: Callable[[int, Any], None]) -> None:
            asked = [self._request(r.args[0], r.args[1], seed) for r, seed in some]
            alike: dict[tuple[int, ...], list[int]] = {}  # tasks come together; the prompts of one begin alike
            for i, (request, _) in enumerate(asked):
                alike.setdefault(tuple(request.prompt[:64]), []).append(i)
            alone = [members[0] for members in alike.values() if len(members) == 1]
            for members in [*(m for m in alike.values() if len(m) > 1), *([alone] if alone else [])]:

                def done(n: int, c: Completion, members: list[int] = members) -> None:
                    request, stops = asked[members[n]]
                    whole = bool(some[members[n]][0].args[1].get(LEADING_SPACE))
                    put(members[n], self._text(request.prompt if whole else (), c.tokens, stops))

                self.engine.generate([asked[i][0] for i in members], done, share_prefix=True)

        asked_before: Counter[str] = Counter()
        numbered = []
        for r in requests:
            key = self.kept.key("generate_until", r.args)
            if r.args[1].get("do_sample"):
                asked_before[key] += 1
                key = self.kept.key("generate_until", [*r.args, asked_before[key]])
            numbered.append(((r, int(key[:7], 16)), key))
        return [str(x) for x in self._answers("generate_until", numbered, compute)]

    def _request(self, context: str, options: dict[str, Any], seed: int) -> tuple[Request, list[str]]:
        kwargs = normalize_gen_kwargs({k: v for k, v in options.items() if k != LEADING_SPACE}, self.max_gen_toks)
        stops = handle_stop_sequences(kwargs.pop("until", None), eos=self.words.decode([self.eot_token_id]))
        most = int(kwargs["max_gen_toks"])
        room = self.max_length - most
        if room < 1:
            raise JaxptError(
                f"a task asks for {most:,} new tokens (max_gen_toks), which leaves no room for a prompt in the "
                f"{self.max_length:,} tokens that the model reads ({self.said['max_length']})"
            )
        prompt = self.tok_encode(context) or [self._first]
        self.truncated += len(prompt) > room
        sampling = Sampling(0)
        if kwargs.get("do_sample"):
            sampling = Sampling(
                float(kwargs.get("temperature", 1.0)), int(kwargs.get("top_k", 0)), float(kwargs.get("top_p", 1.0))
            )
        return Request(prompt[-room:], most, sampling, seed, stop_ids=self.ends, stop_texts=tuple(stops)), stops

    def _text(self, before: Sequence[int], tokens: Sequence[int], stops: list[str]) -> str:
        """The text of `tokens`; with the prompt `before`, beginning with the space that decoding alone may drop."""
        begun, whole = (
            self.words.decode([t for t in some if t not in self._special and t not in self.ends])
            for some in (before, [*before, *tokens])
        )
        text = whole[len(begun) :]
        return str(postprocess_generated_text(text, stops, None))

    def _keyed(self, kind: str, requests: list[Any]) -> list[tuple[Any, str]]:
        return [(r, self.kept.key(kind, r.args)) for r in requests]

    def _answers(
        self,
        kind: str,
        requests: Sequence[tuple[Any, str]],
        compute: Callable[[list[Any], Callable[[int, Any], None]], None],
    ) -> list[Any]:
        """Of each (request, key) what is kept under the key, or else what `compute` puts, which is then kept."""
        out: dict[int, Any] = {}
        first: dict[str, int] = {}  # the same question may be asked twice
        values = [self.kept.get(key) for _, key in requests]
        known = self.agree(np.array([value is not None for value in values], bool))
        for i, (_, key) in enumerate(requests):
            if known[i]:
                out[i] = NOTHING[kind] if values[i] is None else values[i]
            else:
                first.setdefault(key, i)
        open_ = list(first.values())
        with progress(len(requests), kind, "req") as bar:
            bar.update(len(requests) - len(open_))

            def put(n: int, value: Any) -> None:
                out[open_[n]] = value
                self.kept.put(requests[open_[n]][1], value)
                bar.update(1)

            if open_:
                compute([requests[i][0] for i in open_], put)
        return [out[i] if i in out else out[first[key]] for i, (_, key) in enumerate(requests)]
