"""Hugging Face out: a bundle written as safetensors, config.json and tokenizer, tensor by tensor."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.bundles import Bundle, open_bundle
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.partial import partial_directory
from jaxpt.interop.checkpoint import places_of
from jaxpt.interop.family import read_config
from jaxpt.interop.find_family import family_named, form_for
from jaxpt.interop.folding import FamilyForm, form_of
from jaxpt.interop.inert import carried, loadable
from jaxpt.interop.mapping import Tensor
from jaxpt.interop.safetensors_file import index_of, shards, write_file
from jaxpt.models.config import ModelConfig
from jaxpt.models.model import Model
from jaxpt.models.params import ArrayIndex
from jaxpt.models.specs import flatten, param_specs
from jaxpt.tokenizers.interface import Tokenizer

SHARD_BYTES = 4 * 2**30
DTYPES = ("float32", "bfloat16", "float16")
Report = Callable[[int], None]


def export_bundle(
    source: str | Path | Model,
    target: str | Path,
    family: str | None = None,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    report: Report = lambda tensors: None,
) -> Path:
    """Writes a bundle as a Hugging Face directory, one tensor in memory at a time.

    Args:
        source: the bundle, or a model in memory.
        target: the directory; must not exist.
        family: `model_type` to write, or `package.module:FAMILY` of the user's own; None: the one it was imported
            from where that can still express the model, else the first that can.
        dtype: cast every tensor; None keeps each one's own.
        shard_bytes: of one file at most.
        report: called after each tensor with 1.

    Raises:
        JaxptError: no family (or not the asked one) can express the model, named with the fact; the target exists or
            cannot be written. Nothing is left at `target` then.
    """
    bundle, target = HeldModel(source) if isinstance(source, Model) else open_bundle(source), Path(target)
    if os.path.lexists(target):
        raise JaxptError(f"{target} exists; remove it or choose another target")
    if dtype not in (None, *DTYPES):
        raise JaxptError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}{nearest(dtype, DTYPES)}")
    imported: Mapping[str, Any] = next((e for e in bundle.lineage if e.get("op") == "import" and "config" in e), {})
    form = export_form(bundle.config, bundle.lineage, family)
    values = _config(form, bundle, imported, dtype)
    jobs = _jobs(form)
    dtypes = _dtypes(form, bundle, dtype)
    planned = [(name, tensor.foreign_shape(form.specs[leaf]), dtypes[leaf]) for name, tensor, leaf, _ in jobs]
    parts = shards(planned, shard_bytes)
    count = len(parts)
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    with partial_directory(target) as partial:
        tensors = _tensors(jobs, form, bundle, dtypes, report)
        for name, part in zip(names, parts):
            write_file(partial / name, part, _first(tensors, len(part)))
        if count > 1:
            _write(partial / "model.safetensors.index.json", index_of(dict(zip(names, parts))))
        tokenizer = bundle.tokenizer()
        if tokenizer is not None:
            tokenizer.save(partial)
        if "generation_config" in imported:
            _write(partial / "generation_config.json", imported["generation_config"])
        _write(partial / "config.json", values)
        partial.rename(target)
    return target


class HeldModel:
    """A model in memory, read as a bundle is."""

    def __init__(self, model: Model):
        """Holds `model`, whose leaves are host or device arrays."""
        self.config, self.lineage = model.config, list(model.lineage)
        self.specs = flatten(param_specs(model.config))
        self._params, self._tokenizer = flatten(model.params), model.tokenizer
        self.dtypes = {path: str(leaf.dtype) for path, leaf in self._params.items()}

    def read(self, leaf: str, layer: int | None = None, index: ArrayIndex = ...) -> np.ndarray:
        """As `Bundle.read`."""
        value = self._params[leaf] if layer is None else self._params[leaf][layer]
        return np.asarray(value[index])

    def tokenizer(self) -> Tokenizer | None:
        """As `Bundle.tokenizer`."""
        return self._tokenizer


Job = tuple[str, Tensor, str, tuple[int, ...]]  # foreign name, mapping, leaf path, where in the leaf


def export_form(config: ModelConfig, lineage: Sequence[Mapping[str, Any]], asked: str | None = None) -> FamilyForm:
    """Returns the form that a model is exported in.

    Args:
        config: the model.
        lineage: its lineage, whose import names its own family.
        asked: `model_type` or `package.module:FAMILY`; None: its own family where that can hold it, else the first
            that can.

    Raises:
        JaxptError: the asked family, or every one, cannot hold the model.
    """
    if asked is None:
        return form_for(config, own_family(lineage))
    return form_of(family_named(asked), config)


def own_family(lineage: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the `model_type` that a model was imported with, None where it was not imported."""
    kinds = (e["config"].get("model_type") for e in lineage if e.get("op") == "import" and "config" in e)
    return next(kinds, None)


def _jobs(form: FamilyForm) -> list[Job]:
    jobs = [
        (name, tensor, leaf, at)
        for tensor in form.family.tensors
        for name, leaf, at in places_of(tensor, form.config, dict(form.specs))
    ]
    missing = form.specs.keys() - {leaf for _, _, leaf, _ in jobs}
    if missing:
        raise JaxptError(f"export: the family {form.family.model_type} has no tensor for {', '.join(sorted(missing))}")
    return jobs


def _dtypes(form: FamilyForm, bundle: Bundle | HeldModel, dtype: str | None) -> dict[str, str]:
    """Each leaf's dtype in the files; one of zeros that the family adds has that of the token table."""
    return {leaf: dtype or bundle.dtypes.get(leaf, bundle.dtypes["embed/table"]) for leaf in form.specs}


def _tensors(
    jobs: list[Job], form: FamilyForm, bundle: Bundle | HeldModel, dtypes: Mapping[str, str], report: Report
) -> Iterator[np.ndarray]:
    for _, tensor, leaf, at in jobs:
        spec = form.specs[leaf]
        if leaf in bundle.specs:
            value = form.scaled(leaf, bundle.read(leaf, at[0] if at else None, at[1:] or ...))
        else:
            value = np.zeros(spec.shape[len(spec.pieces) :], np.float32)
        yield tensor.to_foreign(value, spec).astype(dtypes[leaf], copy=False)
        report(1)


def _first(tensors: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    for _ in range(count):
        yield next(tensors)


def _config(
    form: FamilyForm, bundle: Bundle | HeldModel, imported: Mapping[str, Any], dtype: str | None
) -> dict[str, object]:
    """The imported config.json where it still describes the model; else a new one with its inert keys carried along."""
    original: Mapping[str, object] = imported.get("config", {})
    inert = imported.get("options", {}).get("inert", [])
    dtypes = {dtype} if dtype else set(bundle.dtypes.values())
    stored = dtypes.pop() if len(dtypes) == 1 else "float32"
    same_family = original.get("model_type") == form.family.model_type
    if same_family and not form.folded:
        try:
            if read_config(form.family, original, "the imported config", inert) == bundle.config:
                as_stored = {k: stored for k in ("dtype", "torch_dtype") if original.get(k)} if dtype else {}
                return loadable({**original, **as_stored}, form.values)
        except JaxptError:
            pass
    kept = carried(original, inert, same_family)
    return loadable({**kept, **form.values, "dtype": stored}, form.values)


def _write(file: Path, values: object) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
