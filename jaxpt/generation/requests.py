"""What is asked of a model: a prompt to continue, or a continuation to judge; and what comes back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.generation.sampling import Sampling
from jaxpt.models.config import ModelConfig

GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    `prompt` are token ids, at least one; at most `max_new_tokens` follow. Random numbers depend on `seed` and `stream`
    (which of several continuations with that seed) and nothing else. A continuation ends with one of `stop_ids`, or
    where its text holds one of `stop_texts`, across tokens too. `logprobs`: how many of the likeliest tokens are
    reported at each place beside the chosen one; None: no log-probabilities at all. `logit_bias` are (id, number)
    pairs, added to the logits before temperature and filters. Stop texts are looked for in the text that follows the
    tokens `before` (the end of the prompt), with which a tokenizer may write a space that it leaves out at a text's
    beginning.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    seed: int = 0
    stream: int = 0
    stop_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    before: tuple[int, ...] = ()


@dataclass
class Completion:
    """What follows a prompt.

    `tokens` hold the end token, or the one that completed a stop text. `reason` is "stop" or "length". `text`, only
    of requests with stop texts, ends before the first of them. `logprobs` and `top` are of the model itself (before
    temperature and filters), float32, one entry a token; empty where none were asked for.
    """

    tokens: list[int] = field(default_factory=list)
    reason: str = "length"
    text: str | None = None
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)


@dataclass(frozen=True)
class Scored:
    """Of each token of a continuation: its log-probability, float32 `[n]`, and whether it was the likeliest."""

    logprobs: np.ndarray
    greedy: np.ndarray

    @property
    def total(self) -> float:
        """The log-probability of the whole continuation."""
        return float(self.logprobs.astype(np.float64).sum())

    @property
    def all_greedy(self) -> bool:
        """Whether greedy decoding would have given it."""
        return bool(self.greedy.all())


def check_tokens(config: ModelConfig, tokens: Sequence[int], what: str) -> None:
    """Checks token ids.

    Raises:
        JaxptError: there are none, or one is outside the vocabulary.
    """
    if not len(tokens):
        raise JaxptError(f"{what} has no tokens; give it text or a BOS token")
    for wrong in (max(tokens), min(tokens)):
        if not 0 <= wrong < config.vocab_size:
            raise JaxptError(f"{what} has token id {wrong}, the model's vocabulary has {config.vocab_size}")


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Returns where in `text` the first of `stops` begins, None where there is none; an empty stop is no stop."""
    places = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return min(places, default=None)
