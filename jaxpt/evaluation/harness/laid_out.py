"""A model laid out for evaluations: by an engine, with the answers that it gave kept."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from jaxpt.bundles.digest import digest
from jaxpt.evaluation.harness.kept import KeptAnswers
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.evaluation.option_names import FLAGS, OptionNames
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids
from jaxpt.models.compute import Compute
from jaxpt.models.model import Model


def laid_out(
    model: Model,
    name: str,
    answers: Path | None,
    *,
    mesh: Mesh | None = None,
    dtype: str = "float32",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    slots: int | None = None,
    turn_ends: Sequence[int] | None = None,
    agree: Callable[[np.ndarray], np.ndarray] = lambda known: known,
    said: OptionNames = FLAGS,
) -> JaxptModel:
    """Returns a model as lm_eval asks it.

    Args:
        model: with its tokenizer; parameters on one device or sharded over `mesh`.
        name: what results call it.
        answers: folder where its answers are kept; None: in memory only.
        mesh: None: one device.
        dtype, max_length, batch_tokens, slots: as the flags of these names.
        turn_ends: ids that end a turn of the conversations it was trained with, and with them a generation; None: it
            is asked for none.
        agree: of several processes, as `JaxptModel` takes it.
        said: how messages name options.

    Raises:
        JaxptError: a tokenizer with neither BOS nor EOS; kept answers that cannot be read.
    """
    words = model.tokenizer
    assert words is not None, "checked before"
    ends = end_ids(model)
    identity = {
        "params": digest(model.params),
        "config": model.config.to_dict(),
        "tokenizer": words.fingerprint,
        "dtype": dtype,
        "max_length": max_length or model.config.max_positions,
    }
    if turn_ends is not None:
        ends = sorted({*ends, *turn_ends})
        identity |= {"ends": ends}
    engine = InferenceEngine(
        model.config,
        model.params,
        Compute(dtype=dtype),
        decode=words.decode,
        mesh=mesh,
        slots=slots,
        batch_tokens=batch_tokens,
    )
    kept = KeptAnswers(answers, identity)
    return JaxptModel(engine, words, ends, max_length=max_length, kept=kept, name=name, agree=agree, said=said)
