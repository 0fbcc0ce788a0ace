"""Reweighting: a stage's mixture follows the losses on held-out documents, compared with those of a reference."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from jaxpt.config.duration import parse_interval
from jaxpt.data.reweight import reweight
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError
from jaxpt.evaluation.bits_per_byte import BitsPerByte, token_losses
from jaxpt.evaluation.held_out import HeldOut
from jaxpt.files.digests import canonical_digest, read_bytes, report_without_digests
from jaxpt.files.partial import whole_file
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.model import Model
from jaxpt.models.params import Params
from jaxpt.tokenizers import Tokenizer
from jaxpt.training.config import RunConfig, StageConfig
from jaxpt.training.events import Changes, Due, Event, RunView
from jaxpt.training.starting_point import same_everywhere

SourceLosses = Mapping[str, float]  # nats per token by source


class Reweighting(Event):
    """Changes the mixture of stages that have `reweight`; the checkpoint of the same step, if any, has the new weights.

    The losses are measured on the documents of `evaluations.bits_per_byte`, in rows as long as the stage's.
    """

    name = "reweighting"

    def __init__(
        self,
        config: RunConfig,
        tokenizer: Tokenizer | None,
        workdir: Path,
        load_model: Callable[[Path], Model],
    ):
        """Finds the reference losses of each stage that reweights its mixture.

        Args:
            config: the run.
            tokenizer: that of the data.
            workdir: the run directory; a reference model is measured once and its losses kept there.
            load_model: opens a reference model, in float32.

        Raises:
            JaxptError: no documents for a source, a reference that lacks a source or cannot be read.
        """
        self._config, self._tokenizer, self._load_model = config, tokenizer, load_model
        entry = config.evaluations.get("bits_per_byte")
        self._documents = entry if isinstance(entry, BitsPerByte) else BitsPerByte()
        self._sets: dict[int, Mapping[str, HeldOut]] = {}
        self._due: dict[str, Due] = {}
        self._reference: dict[str, SourceLosses] = {}
        self._measures: dict[tuple[ModelConfig, str], Callable[[Params], SourceLosses]] = {}
        for i, stage in enumerate(config.stages):
            where = f"config.stages[{i}].reweight"
            every = parse_interval(stage.reweight.every, f"{where}.every")
            if every is not None:
                self._due[stage.name] = Due(every)
                self._reference[stage.name] = self._losses_aimed_at(stage, where, workdir)

    @property
    def reference(self) -> Mapping[str, SourceLosses]:
        """The losses aimed at, by stage and source."""
        return self._reference

    def is_due(self, view: RunView) -> bool:
        """As `Event.is_due`; not at a stage's end, where the next stage's mixture begins."""
        due = self._due.get(view.stage.config.name)
        return due is not None and view.step < view.stage.whole[1] and due.at(view.plan, view.step)

    def act(self, view: RunView) -> Changes:
        """Measures the losses and moves the weights by the rule."""
        stage, name = view.stage.config.reweight, view.stage.config.name
        reference, losses = self._reference[name], self._measure(view)(view.evaluated)
        weights = reweight(view.weights, losses, reference, rate=stage.rate, floor=stage.floor, clip=stage.clip)
        values = {f"reweight/loss/{n}": v for n, v in losses.items()}
        values |= {f"reweight/reference/{n}": v for n, v in reference.items()}
        values |= {f"reweight/weight/{n}": weights[n] for n in reference}
        return Changes(values, weights)

    def _measure(self, view: RunView) -> Callable[[Params], SourceLosses]:
        stage = view.stage
        key = stage.model, stage.config.name
        if key not in self._measures:
            documents = self._held_out(stage.config.sequence_length)
            sets = {name: held for name, held in documents.items() if name in self._reference[stage.config.name]}
            self._measures[key] = token_losses(stage.model, sets, stage.step.compute.unquantised, view.mesh)
        return self._measures[key]

    def _held_out(self, sequence_length: int) -> Mapping[str, HeldOut]:
        assert self._tokenizer is not None, "the evaluation has checked it"
        if sequence_length not in self._sets:
            self._sets[sequence_length] = self._documents.held_out(self._tokenizer, sequence_length)
        return self._sets[sequence_length]

    def _losses_aimed_at(self, stage: StageConfig, where: str, workdir: Path) -> SourceLosses:
        """Returns nats per token of every source that the stage uses."""
        used = [n for n, w in flat_weights(stage.mixture).items() if w > 0]
        for name in used:
            if name not in self._documents.documents:
                raise JaxptError(
                    f"{where} needs held-out documents of {name}; set "
                    f"--config.evaluations.bits_per_byte.documents.{name} to a JSONL file"
                )
        path = Path(str(stage.reweight.reference))
        if path.suffix == ".json":
            losses = _given_losses(path, f"{where}.reference")
        else:
            losses = self._measured_losses(path, stage, where, workdir)
        for name in used:
            if not isinstance(losses.get(name), (int, float)) or not math.isfinite(losses[name]):
                raise JaxptError(f"{where}.reference: {path} has no loss for {name}; add it (nats per token)")
        return {name: float(losses[name]) for name in used}

    def _measured_losses(self, path: Path, stage: StageConfig, where: str, workdir: Path) -> SourceLosses:
        """Measures a reference model, once: a run that goes on must aim at the same losses."""
        kept = workdir / "reference_losses.json"
        key = f"{path} at {stage.sequence_length}"
        known, exact = _kept_losses(kept), Path(same_everywhere(str(path)))
        if key not in known:
            model = self._load_model(exact)
            mine = self._tokenizer.fingerprint if self._tokenizer is not None else None
            if model.tokenizer is None or model.tokenizer.fingerprint != mine:
                raise JaxptError(
                    f"{where}.reference: {path} has another tokenizer than this run, so that losses per token do not "
                    f"compare; give a JSON file of losses instead"
                )
            compute = Compute(**dataclasses.asdict(self._config.compute)).unquantised
            measure = token_losses(model.config, self._held_out(stage.sequence_length), compute)
            known[key] = measure(model.params)
            if jax.process_index() == 0:
                values = {"losses": known, "sha256": canonical_digest(known)}
                with whole_file(kept, kept.with_suffix(".tmp")) as temporary:
                    temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return known[key]


def _kept_losses(file: Path) -> dict[str, SourceLosses]:
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


def _given_losses(path: Path, where: str) -> SourceLosses:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JaxptError(f"{where}: {path} cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise JaxptError(f"{where}: {path} must be an object of losses by source, as {{\"web\": 2.1}}")  # fmt: skip
    return values
