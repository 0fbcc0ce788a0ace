"""Text in, text out: prompts encoded, continued, and decoded again."""

from collections.abc import Sequence

from jaxpt.errors import JaxptError
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
) -> list[str]:
    """Returns each prompt with its continuation, which ends before EOS.

    Args:
        model: with a tokenizer.
        prompts: the texts to continue.
        max_new_tokens: of each continuation, at most.
        sampling: how tokens are drawn.
        seed: of the random numbers.
        bos: begin each prompt with BOS, where the tokenizer has one.
        control_tokens: read control tokens that a prompt spells as such, as a prompt written by a chat template needs;
            False where others than its author wrote parts of it.
        compute: dtypes.

    Raises:
        JaxptError: the model has no tokenizer; a prompt without tokens.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise JaxptError("the model has no tokenizer; write the bundle with one")
    begins = bos and tokenizer.bos_id is not None
    ids = [tokenizer.encode(text, bos=begins, control_tokens=control_tokens) for text in prompts]
    stop = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    made = generate(
        model.config, model.params, ids, max_new_tokens, sampling=sampling, seed=seed, stop_ids=stop, compute=compute
    )
    out = []
    for text, prompt, new in zip(prompts, ids, made):
        kept = [i for i in new if i not in stop]
        whole = tokenizer.decode([*(prompt[1:] if begins else prompt), *kept])
        out.append(whole if whole.startswith(text) else text + tokenizer.decode(kept))
    return out
