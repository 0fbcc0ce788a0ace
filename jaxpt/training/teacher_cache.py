"""The teacher's side of a cache: its distribution at every position of a source, row by row in the source's order.

The numbers that ids are drawn by come from the seed, the source's fingerprint and the row alone, whichever process,
mesh or batch the row is computed in. The record is thus the same wherever the teacher's logits are the same to the last
bit; another mesh or size of batches may move those on some devices, and with them an id that lies at the edge of two.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.data.packed import PackedSource
from jaxpt.data.target_cache import FORMAT, TargetOrigin, target_kind
from jaxpt.data.targets import TargetKind, Targets, counted, likeliest
from jaxpt.errors import JaxptError
from jaxpt.kernels import sparse_targets
from jaxpt.kernels.sparse_targets import SparseTargets
from jaxpt.kernels.token_chunks import chunk_length
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import hidden, unembed
from jaxpt.models.params import Params
from jaxpt.models.specs import param_specs
from jaxpt.sharding import batch_sharding
from jaxpt.training.starting_point import StartingPoint
from jaxpt.training.state import Layout


@dataclass(frozen=True)
class TargetOptions:
    """What is kept of the teacher's distributions: `draws` of each, or where `top_k` is given its likeliest ids."""

    draws: int = 50
    top_k: int | None = None
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise JaxptError(f"--temperature={self.temperature:g} must be above 0")


def origin_of(source: PackedSource, teacher: StartingPoint, tokenizer: str | None, options: TargetOptions) -> Any:
    """Returns the `TargetOrigin` of a cache.

    The distribution is over the entries that the source's tokenizer has: what a table has besides stands for nothing.

    Args:
        source: whose rows the teacher reads.
        teacher: opened.
        tokenizer: fingerprint of the teacher's own; None: it has none.
        options: what is kept.

    Raises:
        JaxptError: a teacher of another tokenizer or too small a vocabulary, or one whose parameters have no digest.
    """
    if tokenizer is not None and tokenizer != source.tokenizer_fingerprint:
        raise JaxptError(
            f"--teacher has tokenizer {tokenizer[:12]}, {source.path} was packed with "
            f"{source.tokenizer_fingerprint[:12]}; the same token must mean the same to both: pack the text again with "
            f"the teacher's"
        )
    if source.vocab_size > teacher.model.vocab_size:
        raise JaxptError(
            f"--teacher has {teacher.model.vocab_size} entries in its vocabulary, {source.path} has token ids up to "
            f"{source.vocab_size - 1}; give a teacher of the source's tokenizer"
        )
    if not teacher.digest:
        raise JaxptError("--teacher has no digests by which it would be known again; write it again with this jaxpt")
    name, ids = ("sampled", options.draws) if options.top_k is None else ("top_k", options.top_k)
    origin: TargetOrigin = {
        "format": FORMAT,
        "kind": name,
        "ids": ids,
        "vocab_size": source.vocab_size,
        "temperature": options.temperature,
        "seed": options.seed,
        "source": source.fingerprint,
        "tokenizer": source.tokenizer_fingerprint,
        "sequence_length": source.sequence_length,
        "rows": source.rows,
        "teacher": teacher.digest,
        "dtype": _own_dtype(teacher.dtypes),
    }
    target_kind(origin)  # refuses what records cannot hold
    return origin


def _own_dtype(dtypes: Mapping[str, str]) -> str:
    """That of most parameters which are not float32, float32 where all are."""
    return Counter(dtypes.values()).most_common(1)[0][0] if dtypes else "float32"


class TeacherTargets:
    """Computes the targets of a source's rows on the mesh, some rows at a time."""

    def __init__(
        self,
        source: PackedSource,
        origin: TargetOrigin,
        teacher: StartingPoint,
        layout: Layout,
        batch_size: int,
        report: Callable[[int], object] = lambda tokens: None,
    ):
        """Reads the teacher's parameters in their own dtypes, each device's part by itself.

        Args:
            source: whose rows.
            origin: of the cache.
            teacher: of `origin`.
            layout: of the teacher.
            batch_size: rows at a time.
            report: called with the positions done since.

        Raises:
            JaxptError: damaged parameters; a batch size that the mesh does not divide.
        """
        if batch_size < 1 or batch_size % layout.rows:
            raise JaxptError(f"--batch_size={batch_size} must be a multiple of the {layout.rows} devices of its rows")
        self._source, self._kind, self._layout, self._report = source, target_kind(origin), layout, report
        self._size = batch_size
        with jax.set_mesh(layout.mesh):
            self._params = teacher.params(layout.of(param_specs(teacher.model)), None)
        compute = Compute(dtype=origin["dtype"])
        chunk = chunk_length(batch_size // layout.rows, source.sequence_length, 3 * teacher.model.vocab_size)
        key = _key(origin["seed"], origin["source"])
        self._drawn = jax.jit(
            functools.partial(_drawn, teacher.model, compute, self._kind, origin["temperature"], chunk, key)
        )

    def __call__(self, first: int, stop: int) -> Iterator[Targets]:
        """Yields the targets of rows first … stop - 1, in order; the next batch is computed meanwhile."""
        waiting: tuple[Any, np.ndarray, int] | None = None
        for start in range(first, stop, self._size):
            rows = np.minimum(np.arange(start, start + self._size), stop - 1)  # a last batch is filled up
            batch: Mapping[str, Any] = self._source.read(rows.tolist())
            where = batch_sharding(self._layout.mesh)
            columns = [batch["tokens"], batch["segment_ids"], batch["positions"], rows.astype(np.uint32)]
            with jax.set_mesh(self._layout.mesh):
                drawn = self._drawn(self._params, *(jax.device_put(c, where) for c in columns))
            if waiting is not None:
                yield from self._rows(*waiting)
            waiting = drawn, batch["loss_weights"] > 0, min(stop - start, self._size)
        if waiting is not None:
            yield from self._rows(*waiting)

    def _rows(self, drawn: SparseTargets, real: np.ndarray, count: int) -> Iterator[Targets]:
        ids, log_p, entropy = (np.asarray(a) for a in jax.device_get(drawn))
        for i in range(count):
            if self._kind.kind == "sampled":
                yield counted(ids[i], entropy[i], real[i])
            else:
                yield likeliest(ids[i], log_p[i], entropy[i], real[i])
        self._report(count * real.shape[1])


def _key(seed: int, fingerprint: str) -> np.ndarray:
    """`[8]` uint32 of the seed and the source."""
    return np.frombuffer(hashlib.blake2b(f"{seed}:{fingerprint}".encode(), digest_size=32).digest(), "<u4")


def _drawn(
    config: ModelConfig,
    compute: Compute,
    kind: TargetKind,
    temperature: float,
    chunk: int,
    key: np.ndarray,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
    rows: jax.Array,
) -> SparseTargets:
    """Returns what is kept of the distribution at every position, `[B, S, …]`, chunk by chunk of positions."""
    x = hidden(config, params, tokens, segment_ids, positions, compute)
    b, s = tokens.shape

    def of_chunk(piece: tuple[jax.Array, jax.Array]) -> SparseTargets:
        x, first = piece
        logits = unembed(config, params, x, compute)[..., : kind.vocab_size] / temperature
        if kind.kind == "top_k":
            return sparse_targets.likeliest(logits, kind.ids)
        at = first + jnp.arange(x.shape[1], dtype=jnp.uint32)
        uniform = jax.vmap(lambda row: jax.vmap(lambda i: _uniform(key, row, i, kind.ids))(at))(rows)
        return sparse_targets.draw(logits, uniform)

    pieces = jnp.moveaxis(x.reshape(b, s // chunk, chunk, -1), 1, 0), jnp.arange(0, s, chunk, dtype=jnp.uint32)
    out = jax.lax.map(of_chunk, pieces)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1).reshape(b, s, *a.shape[3:]), out)


def _uniform(key: np.ndarray, row: jax.Array, position: jax.Array, count: int) -> jax.Array:
    """`[count]` float32 in [0, 1) of one position."""
    made = jax.random.key(key[0], impl="threefry2x32")
    for word in (*key[1:4], row, position):
        made = jax.random.fold_in(made, word)
    return jax.random.uniform(made, (count,), jnp.float32)
