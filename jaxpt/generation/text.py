"""Text in, text out: prompts encoded, continued, and decoded again."""

import warnings
from collections.abc import Callable, Sequence

from jaxpt.errors import JaxptError
from jaxpt.generation.ends import end_ids
from jaxpt.generation.generate import generate
from jaxpt.generation.sampling import Sampling
from jaxpt.models.compute import Compute
from jaxpt.models.model import Model


def continue_texts(
    model: Model,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008
    seed: int = 0,
    bos: bool = True,
    control_tokens: bool = True,
    compute: Compute = Compute(),  # noqa: B008
    notice: Callable[[str], object] = warnings.warn,
) -> list[str]:
    """Returns each prompt with its continuation, which ends before one of the model's end tokens (`end_ids`).

    Args:
        model: with a tokenizer.
        prompts: the texts to continue.
        max_new_tokens: of each continuation, at most.
        sampling: how tokens are drawn.
        seed: of the random numbers.
        bos: begin each prompt with BOS, where the tokenizer does so and none is written in it.
        control_tokens: read control tokens that a prompt spells as such, as a prompt written by a chat template needs;
            False where others than its author wrote parts of it.
        compute: dtypes.
        notice: as `generate` takes it.

    Raises:
        JaxptError: the model has no tokenizer, or none of a prompt's tokens; a prompt without tokens.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise JaxptError("the model has no tokenizer; write the bundle with one")
    ids = [tokenizer.encode_prompt(text, bos, control_tokens=control_tokens) for text in prompts]
    for text, prompt in zip(prompts, ids):
        if beyond := [i for i in prompt if i >= model.config.vocab_size]:
            raise JaxptError(
                f"the prompt {text[:40]!r} holds {tokenizer.piece(beyond[0])!r} (token {beyond[0]}), the model's "
                f"vocabulary has {model.config.vocab_size} entries; leave that token out"
            )
    stop = end_ids(model)
    made = generate(
        model.config,
        model.params,
        ids,
        max_new_tokens,
        sampling=sampling,
        seed=seed,
        stop_ids=stop,
        compute=compute,
        notice=notice,
    )
    out = []
    for text, prompt, new in zip(prompts, ids, made):
        kept = [i for i in new if i not in stop]
        begun = prompt[:1] == [tokenizer.bos_id]
        whole = tokenizer.decode([*(prompt[1:] if begun else prompt), *kept])
        out.append(whole if whole.startswith(text) else text + tokenizer.decode(kept))
    return out
