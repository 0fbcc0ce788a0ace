"""Continuing a batch of prompts of different lengths, in one call."""

import warnings
from collections.abc import Callable, Sequence

from jaxpt.generation.engine import InferenceEngine
from jaxpt.generation.requests import Request, check_tokens
from jaxpt.generation.sampling import Sampling
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params


def generate(
    config: ModelConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    compute: Compute = Compute(),  # noqa: B008
    notice: Callable[[str], object] = warnings.warn,
) -> list[list[int]]:
    """Returns up to `max_new_tokens` tokens after each prompt; a sequence ends after the first of `stop_ids`.

    Prompt i's random numbers depend on the seed and i alone, not on the other prompts.

    Args:
        config: the model.
        params: its parameters.
        prompts: token ids, at least one each.
        max_new_tokens: at most.
        sampling: how tokens are drawn.
        seed: of the random numbers.
        stop_ids: ids that end a sequence (kept in the result).
        compute: dtypes.
        notice: gets a line once, when a sequence goes past the positions that the model was made for.

    Raises:
        JaxptError: an empty prompt, or ids outside the vocabulary.
    """
    if max_new_tokens < 1:
        for i, prompt in enumerate(prompts):
            check_tokens(config, prompt, f"prompt {i}")
        return [[] for _ in prompts]
    requests = [Request(prompt, max_new_tokens, sampling, seed, i, tuple(stop_ids)) for i, prompt in enumerate(prompts)]
    made = [c.tokens for c in InferenceEngine(config, params, compute).generate(requests)]
    warn_past_positions(config, prompts, made, notice)
    return made


def warn_past_positions(
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    made: Sequence[Sequence[int]],
    notice: Callable[[str], object],
) -> None:
    """Gives `notice` a line for the first prompt that went past the positions that the model was made for."""
    for i, (prompt, new) in enumerate(zip(prompts, made)):
        if len(prompt) + len(new) - 1 > config.max_positions:
            notice(_past_positions(config, i, len(prompt)))
            return


def _past_positions(config: ModelConfig, i: int, length: int) -> str:
    room = config.max_positions - length
    where = f"prompt {i} and what follows it go" if room >= 0 else f"prompt {i} of {length:,} tokens goes"
    way_out = f"at most {room:,} new tokens stay within them" if room > 0 else "give a shorter prompt"
    return (
        f"{where} past the model's {config.max_positions:,} positions (max_positions), beyond which it was not "
        f"made to work; {way_out}"
    )
