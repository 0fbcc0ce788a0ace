"""A run directory: what it says about the run besides checkpoints and metrics, and whether a config still fits it."""

import json
import os
from pathlib import Path
from typing import Any

from jaxpt.config import RunConfig
from jaxpt.errors import JaxptError
from jaxpt.files import lock
from jaxpt.models.config import ModelConfig
from jaxpt.schema import plain

# Changing these would make the steps taken and those to come two different runs.
FIXED = ("seed", "model", "init_from", "tokenizer")


def prepare(
    workdir: Path, config: RunConfig, model: ModelConfig, tokenizer: Any, lineage: list[dict[str, Any]]
) -> list[str]:
    """Makes the directory, or checks that an existing one belongs to this config; writes its small files.

    Args:
        workdir: the run directory.
        config: the run's config, stored as config.json.
        model: stored as model.json.
        tokenizer: stored in tokenizer/, if there is one.
        lineage: where the run's first parameters come from; stored as lineage.json.

    Returns:
        One line for each key that was changed since the run began.

    Raises:
        JaxptError: the directory holds a run with another model, seed or start.
    """
    values = plain(config)
    path = workdir / "config.json"
    changed: list[str] = []
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for key, old, new in differences(before, values):
            if key.split(".")[0] in FIXED:
                raise JaxptError(
                    f"{workdir} holds a run with config.{key}={old!r}, now it is {new!r}; take that value or "
                    f"another --workdir"
                )
            changed.append(f"config.{key}: {old!r} before, {new!r} now")
    else:
        foreign = sorted(p.name for p in workdir.iterdir()) if workdir.is_dir() else []
        foreign = [name for name in foreign if name not in ("events.jsonl", lock.NAME)]
        if foreign:
            names = ", ".join(foreign[:3])
            raise JaxptError(f"{workdir} is not empty and no run ({names}); give another --workdir")
        workdir.mkdir(parents=True, exist_ok=True)
    _write(workdir / "model.json", model_json(model, tokenizer))
    if tokenizer is not None and not (workdir / "tokenizer").exists():
        tokenizer.save(workdir / "tokenizer")
    _write(workdir / "lineage.json", lineage)
    _write(path, values)
    return changed


def model_json(model: ModelConfig, tokenizer: Any) -> dict[str, Any]:
    """What model.json holds."""
    return {"config": model.to_dict(), "tokenizer_fingerprint": None if tokenizer is None else tokenizer.fingerprint}


def differences(before: Any, now: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """Returns `(key, before, now)` for every leaf that differs between two trees of plain values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *[k for k in now if k not in before]]
        dotted = f"{where}." if where else ""
        return [d for k in keys for d in differences(before.get(k), now.get(k), f"{dotted}{k}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [d for i, (a, b) in enumerate(zip(before, now)) for d in differences(a, b, f"{where}[{i}]")]
    return [] if before == now else [(where, before, now)]


def _write(path: Path, values: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
