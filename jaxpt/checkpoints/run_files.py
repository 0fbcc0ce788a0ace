"""The small files of a run directory that a reader needs beside its checkpoints: model.json, lineage.json."""

from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.files.digests import read_json
from jaxpt.models.config import ModelConfig

WAY_OUT = "restore it from a copy, or start the run with the config and tokenizer it had, which writes it again"


def read_lineage(workdir: Path) -> list[dict[str, Any]]:
    """Returns where a run's first parameters came from. Raises a JaxptError where lineage.json is damaged."""
    return read_json(workdir, "lineage.json", list, WAY_OUT)


def stored_model(workdir: Path) -> ModelConfig:
    """Returns the model of a run, with the rope of its beginning. Raises a JaxptError where model.json is damaged."""
    facts = read_json(workdir, "model.json", dict, WAY_OUT)
    try:
        return ModelConfig.from_dict(facts["config"])
    except (KeyError, TypeError, AttributeError) as error:
        raise JaxptError(f"{workdir / 'model.json'} is broken ({error!r}); {WAY_OUT}") from error


def has_tokenizer(workdir: Path) -> bool:
    """Whether a run was given a tokenizer. Raises a JaxptError where what says so is damaged."""
    return read_json(workdir, "model.json", dict, WAY_OUT).get("tokenizer_fingerprint") is not None
