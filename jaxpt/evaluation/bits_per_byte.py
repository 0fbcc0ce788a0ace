"""Bits per byte of held-out documents: a loss that models with different tokenizers can be compared by."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.data.packing import Document, best_fit
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import hidden, unembed
from jaxpt.sharding import batch_sharding


@dataclass(frozen=True)
class Result:
    """Sums over documents: `nats` of all text tokens, the UTF-8 `bytes` they stand for, `tokens`, `documents`."""

    nats: float
    bytes: int
    tokens: int
    documents: int

    @property
    def bits_per_byte(self) -> float:
        """`nats / ln 2 / bytes`."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """`exp` of the mean loss per token."""
        return math.exp(self.nats / self.tokens)


def bits_per_byte(
    config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: Any,
    texts: Iterable[str],
    *,
    sequence_length: int,
    batch_size: int = 8,
    compute: Compute = Compute(),  # noqa: B008
) -> Result:
    """Returns how well the model predicts `texts`, every token once.

    A document longer than `sequence_length` is read in windows; a window's first tokens have less context, as in
    training. The first token is predicted from BOS; without a BOS it costs log2(V) bits, so that no byte is free.

    Args:
        config: the model.
        params: its parameters, on one device or a mesh (then `jax.set_mesh` is in force).
        tokenizer: what the model was trained with.
        texts: documents.
        sequence_length: tokens the model sees at once.
        batch_size: windows in one forward pass, rounded up to what the mesh divides.
        compute: as in training.

    Raises:
        JaxptError: there is no text.
    """
    rows = windows(tokenizer, texts, sequence_length)
    if not rows.bytes:
        raise JaxptError("bits per byte: the held-out documents hold no text")
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = -(-batch_size // ways) * ways
    total = rows.free * math.log(config.vocab_size)
    run = _losses(config, compute)
    for first in range(0, len(rows.inputs), batch_size):
        part = [a[first : first + batch_size] for a in (rows.inputs, rows.targets, rows.segments, rows.weights)]
        missing = batch_size - len(part[0])
        part = [np.pad(a, ((0, missing), (0, 0))) for a in part]
        if not mesh.empty:
            where = batch_sharding(jax.sharding.get_mesh())
            part = [jax.make_array_from_callback(a.shape, where, lambda i, a=a: a[i]) for a in part]
        total += float(run(params, *part))
    return Result(total, rows.bytes, rows.tokens, rows.documents)


@functools.lru_cache(maxsize=8)
def _losses(config: ModelConfig, compute: Compute) -> Callable[..., jax.Array]:
    @jax.jit
    def run(params: Any, inputs: jax.Array, targets: jax.Array, segments: jax.Array, weights: jax.Array) -> jax.Array:
        x = hidden(config, params, inputs, segments, compute=compute)
        return jnp.sum(from_logits(unembed(config, params, x, compute), targets)[0] * weights)

    return run


@dataclass(frozen=True)
class Windows:
    """Documents as rows `[N, S]`: inputs, targets, segment ids, weights (1 where a text token is predicted)."""

    inputs: np.ndarray
    targets: np.ndarray
    segments: np.ndarray
    weights: np.ndarray
    bytes: int
    tokens: int
    documents: int
    free: int  # first tokens that nothing predicts


def windows(tokenizer: Any, texts: Iterable[str], length: int) -> Windows:
    """Returns the rows in which each text token is a target exactly once (or, without BOS, is counted in `free`)."""
    head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    texts = [t for t in texts if t]
    pairs: list[np.ndarray] = []
    documents: list[Document] = []
    tokens = free = 0
    for ids in tokenizer.encode_batch(texts):
        tokens += len(ids)
        free += not head
        whole = np.concatenate([np.array(head, np.int32), ids])
        for at in range(0, len(whole) - 1, length):
            piece = whole[at : at + length + 1]
            pairs.append(piece)
            documents.append(Document(piece[:-1], np.ones(len(piece) - 1, bool), len(pairs) - 1))
    shape = (0, length)
    rows = {name: np.zeros(shape, np.int32) for name in ("inputs", "targets", "segments", "weights")}
    made: dict[str, list[np.ndarray]] = {name: [] for name in rows}
    for row, numbers in best_fit(documents, length, 0):
        line = {name: np.zeros(length, np.int32) for name in rows}
        line["inputs"] = row.tokens.astype(np.int32)
        for segment, (number, start, stop) in enumerate(zip(numbers, row.starts, row.starts[1:]), 1):
            line["targets"][start:stop] = pairs[number][1:]
            line["segments"][start:stop] = segment
            line["weights"][start:stop] = 1
        for name, value in line.items():
            made[name].append(value)
    arrays = {name: np.stack(made[name]) if made[name] else rows[name] for name in rows}
    size = sum(len(t.encode("utf-8", "surrogatepass")) for t in texts)
    return Windows(**arrays, bytes=size, tokens=tokens, documents=len(texts), free=free)


def evaluation_hook(
    config: ModelConfig,
    tokenizer: Any,
    files: Mapping[str, str],
    *,
    sequence_length: int,
    max_documents: int | None = None,
    batch_size: int = 8,
    compute: Compute = Compute(),  # noqa: B008
) -> Callable[[int, Any], dict[str, float]]:
    """Returns a hook for the training loop: (step, params) to `{"eval/bpb/<source>": bits per byte}`.

    Args:
        config: the model.
        tokenizer: the run's.
        files: source name to JSONL or Parquet files with a `text` field.
        sequence_length: tokens the model sees at once.
        max_documents: of each source, the first ones.
        batch_size: rows in one forward pass.
        compute: as in training.

    Raises:
        JaxptError: a file that cannot be read (at once, before step one).
    """
    texts = {name: _texts(path, max_documents) for name, path in files.items()}

    def hook(step: int, params: Any) -> dict[str, float]:
        options = {"sequence_length": sequence_length, "batch_size": batch_size, "compute": compute}
        return {
            f"eval/bpb/{name}": bits_per_byte(config, params, tokenizer, documents, **options).bits_per_byte
            for name, documents in texts.items()
        }

    return hook


def _texts(path: str, limit: int | None) -> Sequence[str]:
    found: list[str] = []
    for file in list_files(path):
        for document in read_documents(file):
            if limit is not None and len(found) == limit:
                return found
            found.append(document["text"])
    return found
