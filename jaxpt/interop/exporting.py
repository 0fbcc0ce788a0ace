"""Hugging Face out: a bundle written as safetensors, config.json and tokenizer, tensor by tensor."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.bundles import Bundle, open_bundle
from jaxpt.errors import JaxptError
from jaxpt.interop.checkpoint import places_of
from jaxpt.interop.families import FAMILIES, expresses, family_for
from jaxpt.interop.family import Family, read_config, write_config
from jaxpt.interop.keys import INERT, Keys
from jaxpt.interop.mapping import Tensor
from jaxpt.interop.safetensors_file import index_of, shards, write_file

SHARD_BYTES = 4 * 2**30
Report = Callable[[int], None]


def export_bundle(
    source: str | Path,
    target: str | Path,
    family: str | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    report: Report = lambda tensors: None,
) -> Path:
    """Writes a bundle as a Hugging Face directory, one tensor in memory at a time, each dtype kept.

    Args:
        source: the bundle.
        target: the directory; must not exist.
        family: `model_type` to write; None: the one it was imported from where that can still express the model, else
            the first that can.
        shard_bytes: of one file at most.
        report: called after each tensor with 1.

    Raises:
        JaxptError: no family (or not the asked one) can express the model, named with the fact; the target exists or
            cannot be written. Nothing is left at `target` then.
    """
    bundle, target = open_bundle(source), Path(target)
    if target.exists():
        raise JaxptError(f"{target} exists; remove it or choose another target")
    original = next((e["config"] for e in bundle.lineage if e.get("op") == "import" and "config" in e), {})
    chosen = _family(bundle, family, original)
    values = _config(chosen, bundle, original)
    jobs = _jobs(chosen, bundle)
    planned = [(name, t.foreign_shape(bundle.specs[leaf]), bundle.dtypes[leaf]) for name, t, leaf, _ in jobs]
    parts = shards(planned, shard_bytes)
    count = len(parts)
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    except OSError as e:
        raise JaxptError(f"{target.parent} cannot be written ({e.strerror}); choose another target") from e
    try:
        tensors = _tensors(jobs, bundle, report)
        for name, part in zip(names, parts):
            write_file(partial / name, part, _first(tensors, len(part)))
        if count > 1:
            _write(partial / "model.safetensors.index.json", index_of(dict(zip(names, parts))))
        tokenizer = bundle.tokenizer()
        if tokenizer is not None:
            tokenizer.save(partial)
        _write(partial / "config.json", values)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


Job = tuple[str, Tensor, str, tuple[int, ...]]


def _jobs(family: Family, bundle: Bundle) -> list[Job]:
    found = [
        (name, tensor, leaf, at)
        for tensor in family.tensors
        for name, leaf, at in places_of(tensor, bundle.config, bundle.specs)
    ]
    missing = bundle.specs.keys() - {leaf for _, _, leaf, _ in found}
    if missing:
        raise JaxptError(f"export: the family {family.model_type} has no tensor for {', '.join(sorted(missing))}")
    return found


def _tensors(jobs: list[Job], bundle: Bundle, report: Report) -> Iterator[np.ndarray]:
    for _, tensor, leaf, at in jobs:
        value = bundle.read(leaf, at[0] if at else None, at[1:] or ...)
        yield tensor.to_foreign(value, bundle.specs[leaf])
        report(1)


def _first(tensors: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    for _ in range(count):
        yield next(tensors)


def _family(bundle: Bundle, asked: str | None, original: Mapping[str, Any]) -> Family:
    if asked is not None:
        if asked not in FAMILIES:
            raise JaxptError(f"--family={asked} is unknown; known: {', '.join(FAMILIES)}")
        return FAMILIES[asked]
    family = FAMILIES.get(original.get("model_type", ""))
    if family is not None and expresses(family, bundle.config):
        return family
    return family_for(bundle.config)  # it never had a family, or was changed beyond it (upcycled, say)


def _config(family: Family, bundle: Bundle, original: Mapping[str, Any]) -> dict[str, Any]:
    """The imported config.json where it still describes the model; else a new one with its inert keys carried along."""
    if original.get("model_type") == family.model_type:
        try:
            if read_config(family, Keys(original, "the imported config")) == bundle.config:
                return dict(original)
        except JaxptError:
            pass
    carried = {k: v for k, v in original.items() if k in INERT}
    dtypes = set(bundle.dtypes.values())
    dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
    return {**carried, **write_config(family, bundle.config), "dtype": dtype}


def _write(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
