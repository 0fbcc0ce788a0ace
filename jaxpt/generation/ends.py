"""The tokens that end a generation: the tokenizer's EOS, and those that the model was imported with."""

from collections.abc import Mapping
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.models.model import Model


def end_ids(model: Model) -> list[int]:
    """Returns the ids that end a generation, sorted.

    They are the EOS of the tokenizer and, of a model that was imported, the `eos_token_id` (one or several) of its
    `generation_config.json`, or of its `config.json` where that names none. Ids beyond the vocabulary are never drawn.

    Raises:
        JaxptError: `eos_token_id` is neither an id nor a list of ids.
    """
    eos = None if model.tokenizer is None else model.tokenizer.eos_id
    imported: Mapping[str, Any] = next((e for e in reversed(model.lineage) if e.get("op") == "import"), {})
    told: Any = None
    for file in ("generation_config", "config"):
        told = told if told is not None else (imported.get(file) or {}).get("eos_token_id")
    ids = told if isinstance(told, list) else [] if told is None else [told]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise JaxptError(f"the model was imported with eos_token_id={told!r}, which is neither an id nor a list of ids")
    return sorted({*ids, *([] if eos is None else [eos])} & set(range(model.config.vocab_size)))
