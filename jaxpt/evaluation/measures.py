"""What `jaxpt train` measures on held-out documents on the way: bits per byte, and losses that move the mixture."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxpt import api
from jaxpt.data.reweight import reweight
from jaxpt.data.text_files import read_documents
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError
from jaxpt.evaluation.bits_per_byte import HeldOut, bits_per_byte, first, held_out, token_losses
from jaxpt.files.digests import canonical_digest, read_bytes, report_without_digests
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.training.config import RunConfig, StageConfig
from jaxpt.training.loop import Hook, Policy


class Measures:
    """The measurements that a config names: made once, asked by the loop for every stage."""

    def __init__(self, config: RunConfig, tokenizer: Any, workdir: Path):
        """Reads the documents, and finds the reference losses of stages that reweight their mixture.

        Args:
            config: the run.
            tokenizer: that of the data.
            workdir: the run directory; a reference model is measured once and its losses kept there.

        Raises:
            JaxptError: no tokenizer, no documents for a source, a reference that lacks a source or cannot be read.
        """
        self._config, self._tokenizer = config, tokenizer
        self._compute = Compute(**dataclasses.asdict(config.compute))
        named = config.evaluation.bits_per_byte
        if named and tokenizer is None:
            raise JaxptError("config.evaluation.bits_per_byte needs a tokenizer; set config.tokenizer")
        limit = config.evaluation.max_documents
        self._texts = {name: first(read_documents(file), limit) for name, file in named.items()}
        self._sets: dict[int, dict[str, HeldOut]] = {}
        self._references = {
            s.name: self._reference(s, f"config.stages[{i}]", workdir)
            for i, s in enumerate(config.stages)
            if s.reweight.every
        }

    def hooks(self, model: ModelConfig, stage: StageConfig, mesh: Any) -> list[Hook]:
        """Returns what is measured at each evaluation of a stage: bits per byte, in rows as long as the stage's."""
        if not self._texts:
            return []
        return [bits_per_byte(model, self._documents(stage), self._compute, mesh)]

    def policy(self, model: ModelConfig, stage: StageConfig, mesh: Any) -> Policy:
        """Returns what moves the weights of a stage that has `reweight`."""
        reference, o = self._references[stage.name], stage.reweight
        sets = {name: held for name, held in self._documents(stage).items() if name in reference}
        measure = token_losses(model, sets, self._compute, mesh)

        def decide(step: int, params: Any, weights: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
            losses = measure(params)
            new = reweight(weights, losses, reference, rate=o.rate, floor=o.floor, clip=o.clip)
            facts = {f"reweight/loss/{n}": v for n, v in losses.items()}
            facts |= {f"reweight/reference/{n}": v for n, v in reference.items()}
            return new, facts | {f"reweight/weight/{n}": new[n] for n in reference}

        return decide

    def _documents(self, stage: StageConfig) -> dict[str, HeldOut]:
        length, size = stage.sequence_length, self._config.evaluation.batch_size
        if length not in self._sets:
            made = {name: held_out(t, self._tokenizer, length, size, name) for name, t in self._texts.items()}
            self._sets[length] = made
        return self._sets[length]

    def _reference(self, stage: StageConfig, where: str, workdir: Path) -> dict[str, float]:
        """Returns nats per token of every source that the stage uses."""
        used = [n for n, w in flat_weights(stage.mixture).items() if w > 0]
        for name in used:
            if name not in self._texts:
                raise JaxptError(
                    f"{where}.reweight needs held-out documents of {name}; set "
                    f"config.evaluation.bits_per_byte.{name} to a JSONL file"
                )
        path = Path(str(stage.reweight.reference))
        if path.suffix == ".json":
            losses = _losses(path, f"{where}.reweight.reference")
        else:
            losses = self._measured(path, stage, where, workdir)
        for name in used:
            if not isinstance(losses.get(name), (int, float)) or not math.isfinite(losses[name]):
                raise JaxptError(f"{where}.reweight.reference: {path} has no loss for {name}; add it (nats per token)")
        return {name: float(losses[name]) for name in used}

    def _measured(self, path: Path, stage: StageConfig, where: str, workdir: Path) -> dict[str, float]:
        """Measures a reference model, once: a run that goes on must aim at the same losses."""
        kept = workdir / "reference_losses.json"
        key = f"{path} at {stage.sequence_length}"
        known = _kept_losses(kept)
        if key not in known:
            model = api.load(path, dtype="float32")
            if model.tokenizer is None or model.tokenizer.fingerprint != self._tokenizer.fingerprint:
                raise JaxptError(
                    f"{where}.reweight.reference: {path} has another tokenizer than this run, so that losses per token "
                    f"do not compare; give a JSON file of losses instead"
                )
            known[key] = token_losses(model.config, self._documents(stage), self._compute)(model.params)
            if jax.process_index() == 0:
                temporary = kept.with_suffix(".tmp")
                values = {"losses": known, "sha256": canonical_digest(known)}
                temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
                os.replace(temporary, kept)
        return known[key]


def _kept_losses(file: Path) -> dict[str, dict[str, float]]:
    """Returns the losses of reference models that a run has measured, checked; none where there is no such file."""
    content = read_bytes(file)
    if content is None:
        return {}
    way_out = "restore it from a copy, or remove it and the reference is measured again"
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise JaxptError(f"{file} is broken ({error}); {way_out}") from error
    if isinstance(values, dict) and all(" at " in key and isinstance(v, dict) for key, v in values.items()):
        report_without_digests(file)
        return values
    if not isinstance(values, dict) or values.get("sha256") != canonical_digest(values.get("losses")):
        raise JaxptError(f"{file} is damaged: its losses are not what its digest says; {way_out}")
    return values["losses"]


def _losses(path: Path, where: str) -> dict[str, float]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JaxptError(f"{where}: {path} cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise JaxptError(f"{where}: {path} must be an object of losses by source, as {{\"web\": 2.1}}")  # fmt: skip
    return values
