"""Bits per byte of held-out documents: how well a model compresses text, whatever its tokenizer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxpt.config.choice import option
from jaxpt.data.caps import CAPS, Caps
from jaxpt.errors import JaxptError
from jaxpt.evaluation.evaluation import Evaluation, EvaluationSetting, Measure
from jaxpt.evaluation.held_out import HeldOut, held_out, read_texts
from jaxpt.files.names import path_component
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import forward
from jaxpt.models.params import Params
from jaxpt.sharding import batch_sharding
from jaxpt.tokenizers import Tokenizer


@dataclass(frozen=True)
class BitsPerByte(Evaluation):
    """Bits per byte of named sets of held-out documents, in rows as long as those of the stage."""

    moved: ClassVar[Mapping[str, str]] = {"bits_per_byte": "documents"}

    documents: dict[str, str] = option({}, "JSONL files of held-out documents by name")
    max_documents: int | None = option(None, "of each set; None: all")
    batch_size: int = option(8, "rows measured at once")
    largest_record: int = option(CAPS.largest_record, "bytes of a document; a longer one is refused")

    @property
    def is_empty(self) -> bool:
        """Without documents."""
        return not self.documents

    def check(self, where: str) -> None:
        """As `Evaluation.check`."""
        super().check(where)
        if self.batch_size < 1:
            raise JaxptError(f"{where}.batch_size is {self.batch_size}, it must be at least 1")
        Caps(self.largest_record)
        for name in self.documents:
            path_component(name, f"{where}.documents")

    def check_inputs(self, where: str, tokenizer: Tokenizer | None) -> None:
        """As `Evaluation.check_inputs`: documents that can be read, and a tokenizer."""
        if tokenizer is None:
            raise JaxptError(f"{where} needs a tokenizer; set --config.tokenizer")
        for name, file in self.documents.items():
            try:
                self._texts(file)
            except OSError as error:
                raise JaxptError(f"{where}.documents.{name} is {file!r}: {error.strerror or error}") from error

    def prepare(self, setting: EvaluationSetting) -> Measure:
        """As `Evaluation.prepare`: bits per byte by the name of the set."""
        assert setting.tokenizer is not None, "checked before the run began"
        sets = self.held_out(setting.tokenizer, setting.sequence_length)
        measure = bits_per_byte(setting.model, sets, setting.compute, setting.mesh)
        return lambda step, params: measure(params)

    def _texts(self, file: str) -> Sequence[str]:
        return read_texts(file, self.max_documents, Caps(self.largest_record))

    def held_out(self, tokenizer: Tokenizer, sequence_length: int) -> dict[str, HeldOut]:
        """Reads the documents and packs them in rows of `sequence_length` tokens."""
        return {
            name: held_out(self._texts(file), tokenizer, sequence_length, self.batch_size, file)
            for name, file in self.documents.items()
        }


def bits_per_byte(
    config: ModelConfig, sets: Mapping[str, HeldOut], compute: Compute, mesh: Mesh | None = None
) -> Callable[[Params], dict[str, float]]:
    """Returns `measure(params) -> {name: bits per byte}`, compiled at its first call.

    Bits per byte are Σ -log2 p(token | its document so far, within the window) over the UTF-8 bytes of the texts.

    Args:
        config: the model.
        sets: documents by name.
        compute: dtypes and attention.
        mesh: where the parameters lie; None: on one device.
    """
    nats = _nats(config, sets, compute, mesh)
    return lambda params: {name: v / math.log(2) / sets[name].bytes for name, v in nats(params).items()}


def token_losses(
    config: ModelConfig, sets: Mapping[str, HeldOut], compute: Compute, mesh: Mesh | None = None
) -> Callable[[Params], dict[str, float]]:
    """Returns `measure(params) -> {name: mean next-token loss in nats}`; arguments as `bits_per_byte`."""
    nats = _nats(config, sets, compute, mesh)
    counts = {name: float(held.batches["loss_weights"].sum()) for name, held in sets.items()}
    return lambda params: {n: v / counts[n] for n, v in nats(params).items()}


def _nats(
    config: ModelConfig, sets: Mapping[str, HeldOut], compute: Compute, mesh: Mesh | None
) -> Callable[[Params], dict[str, float]]:
    """Returns `measure(params) -> {name: Σ -ln p}`."""

    @jax.jit
    def total(params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
        logits = forward(config, params, batch["tokens"], batch["segment_ids"], batch["positions"], compute)
        nll, _ = from_logits(logits, batch["targets"])
        return jnp.sum(nll * batch["loss_weights"])

    def put(a: np.ndarray) -> jax.Array:
        if mesh is None:
            return jnp.asarray(a)
        return jax.make_array_from_callback(a.shape, batch_sharding(mesh), lambda index: a[index])

    def measure(params: Params) -> dict[str, float]:
        out = {}
        for name, held in sets.items():
            count = len(held.batches["tokens"])
            sums = [total(params, {k: put(v[i]) for k, v in held.batches.items()}) for i in range(count)]
            out[name] = sum(float(s) for s in sums)
        return out

    return measure
