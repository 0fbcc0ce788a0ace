"""Bits per byte of held-out documents: how well a model compresses text, whatever its tokenizer."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.data import records
from jaxpt.data.packing import Document, best_fit
from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models.batch import Rows
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import forward
from jaxpt.sharding import batch_sharding

Hook = Callable[[int, Any], dict[str, float]]


@dataclass(frozen=True)
class HeldOut:
    """A set of documents as N batches, each entry `[N, B, S]`."""

    batches: Rows
    bytes: int
    documents: int


def held_out(texts: Iterable[str], tokenizer: Any, sequence_length: int, batch_size: int, name: str = "") -> HeldOut:
    """Tokenizes and packs documents for measuring.

    A document begins with BOS (EOS where there is none), so that its first token is predicted too; one longer than a
    row is cut into windows, each beginning with the last token of the one before. EOS is not predicted.

    Args:
        texts: the documents.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        sequence_length: S, of at least 2.
        batch_size: B; the last batch is filled up with rows that weigh nothing.
        name: of the set, for the error message.

    Raises:
        JaxptError: no text at all.
    """
    texts = [t for t in texts if t]
    if not texts:
        raise JaxptError(f"evaluation.bits_per_byte.{name}: there is no text to measure")
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if start is None:
        raise JaxptError("bits per byte: the tokenizer has neither BOS nor EOS to begin a document with")
    windows = []
    for ids in tokenizer.encode_batch(texts):
        whole = np.concatenate([[start], ids])
        for i in range(0, len(whole) - 1, sequence_length - 1):
            piece = whole[i : i + sequence_length]
            windows.append(Document(piece, np.ones(len(piece), bool), len(windows)))
    rows = [records.encode(row, "uint32") for row, _ in best_fit(windows, sequence_length, 0)]
    arrays = records.decode(rows, sequence_length, "uint32")
    short = -len(rows) % batch_size
    batches = {
        k: np.concatenate([a, np.zeros((short, *a.shape[1:]), a.dtype)]).reshape(-1, batch_size, sequence_length)
        for k, a in arrays.items()
    }
    return HeldOut(batches, sum(len(t.encode("utf-8", "surrogatepass")) for t in texts), len(texts))


def bits_per_byte(config: ModelConfig, sets: Mapping[str, HeldOut], compute: Compute, mesh: Any = None) -> Hook:
    """Returns `measure(step, params) -> {"eval/bpb/<name>": bits}`, compiled at its first call.

    Bits per byte are Σ -log2 p(token | its document so far, within the window) over the UTF-8 bytes of the texts.

    Args:
        config: the model.
        sets: documents by name.
        compute: dtypes and attention.
        mesh: where the parameters lie; None: on one device.
    """
    nats = _nats(config, sets, compute, mesh)
    return lambda step, params: {f"eval/bpb/{n}": v / math.log(2) / sets[n].bytes for n, v in nats(params).items()}


def token_losses(
    config: ModelConfig, sets: Mapping[str, HeldOut], compute: Compute, mesh: Any = None
) -> Callable[[Any], dict[str, float]]:
    """Returns `measure(params) -> {name: mean next-token loss in nats}`; arguments as `bits_per_byte`."""
    nats = _nats(config, sets, compute, mesh)
    counts = {name: float(held.batches["loss_weights"].sum()) for name, held in sets.items()}
    return lambda params: {n: v / counts[n] for n, v in nats(params).items()}


def _nats(
    config: ModelConfig, sets: Mapping[str, HeldOut], compute: Compute, mesh: Any
) -> Callable[[Any], dict[str, float]]:
    """Returns `measure(params) -> {name: Σ -ln p}`."""

    @jax.jit
    def total(params: Any, batch: Rows) -> jax.Array:
        logits = forward(config, params, batch["tokens"], batch["segment_ids"], batch["positions"], compute)
        nll, _ = from_logits(logits, batch["targets"])
        return jnp.sum(nll * batch["loss_weights"])

    def put(a: np.ndarray) -> jax.Array:
        if mesh is None:
            return jnp.asarray(a)
        return jax.make_array_from_callback(a.shape, batch_sharding(mesh), lambda index: a[index])

    def measure(params: Any) -> dict[str, float]:
        out = {}
        for name, held in sets.items():
            count = len(held.batches["tokens"])
            sums = [total(params, {k: put(v[i]) for k, v in held.batches.items()}) for i in range(count)]
            out[name] = sum(float(s) for s in sums)
        return out

    return measure


def first(texts: Iterable[Mapping[str, Any]], count: int | None, field: str = "text") -> Sequence[str]:
    """Returns the text of the first `count` documents (None: all)."""
    out: list[str] = []
    for document in texts:
        if count is not None and len(out) >= count:
            break
        out.append(document[field])
    return out
