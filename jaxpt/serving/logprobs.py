"""Log-probabilities in the two forms of OpenAI's answers."""

from collections.abc import Sequence
from typing import Any

from jaxpt.serving.vocabulary import ServedVocabulary

LEAST = -9999.0  # stands for minus infinity, which JSON has not
Likeliest = Sequence[tuple[int, float]]


def finite(logprob: float) -> float:
    """Returns a log-probability that JSON can hold; NaN, of a model that is broken, as the least."""
    return logprob if logprob >= LEAST else LEAST


def completion_logprobs(
    vocabulary: ServedVocabulary,
    tokens: Sequence[int],
    logprobs: Sequence[float | None],
    top: Sequence[Likeliest],
    offset: int,
) -> dict[str, list[Any]]:
    """Returns `logprobs` of a completion: four lists with an entry for each token.

    `top_logprobs` has the likeliest tokens and the token itself by their texts. Where two have the same text, the
    larger log-probability stands, so that the largest of all is always there; the token's own is the same float as in
    `token_logprobs`.

    Args:
        vocabulary: writes the tokens.
        tokens: ids.
        logprobs: of each; None: the first token of a prompt, which nothing predicts.
        top: the likeliest ones at each place.
        offset: characters before the first token.
    """
    texts = [vocabulary.token_text(i) for i in tokens]
    by_text: list[dict[str, float] | None] = []
    offsets = []
    for token, text, logprob, likeliest in zip(tokens, texts, logprobs, top):
        offsets.append(offset)
        offset += len(text)
        if logprob is None:
            by_text.append(None)
            continue
        one: dict[str, float] = {}
        for i, value in [*likeliest, (token, logprob)]:
            name = vocabulary.token_text(i)
            one[name] = max(one.get(name, LEAST), finite(value))
        by_text.append(one)
    values = [None if v is None else finite(v) for v in logprobs]
    return {"tokens": texts, "token_logprobs": values, "top_logprobs": by_text, "text_offset": offsets}


def chat_logprobs(
    vocabulary: ServedVocabulary, tokens: Sequence[int], logprobs: Sequence[float], top: Sequence[Likeliest]
) -> dict[str, object]:
    """Returns `logprobs` of a chat completion: `content`, an entry for each token with the likeliest at its place."""
    one = lambda i, v: {  # noqa: E731
        "token": vocabulary.token_text(i),
        "logprob": finite(v),
        "bytes": vocabulary.token_bytes(i),
    }
    content = [
        {**one(i, v), "top_logprobs": [one(*pair) for pair in likeliest]}
        for i, v, likeliest in zip(tokens, logprobs, top)
    ]
    return {"content": content, "refusal": None}
