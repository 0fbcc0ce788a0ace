"""A forward pass over calibration data, one layer at a time, with sums of what its activations show.

Only one layer's parameters are needed at once, so a model too large for memory is calibrated from its bundle; the
streams of all batches are kept instead (`[B, S, D]` each). Under a mesh, batches and slices may be sharded: sums are
taken inside `jit` over the global batch, in float32.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models import Compute, LayerSpec, ModelConfig, flatten, param_specs
from jaxpt.models.layer import embed_tokens, finish, run_layer
from jaxpt.models.specs import block_specs
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import Source

# (activations by name, stream before, stream after, weight [B, S]) -> sums
Measure = Callable[[dict[str, jax.Array], jax.Array, jax.Array, jax.Array], Any]
OVER_SEQUENCE = ("mean", "l2")
OVER_BATCH = ("l2", "mean")


@functools.partial(jax.jit, static_argnames=("config", "layer", "compute", "measure"))
def _step(
    config: ModelConfig,
    layer: LayerSpec,
    compute: Compute,
    measure: Measure | None,
    leaves: Mapping[str, jax.Array],
    x: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, Any]:
    seen: dict[str, jax.Array] = {}
    y = run_layer(config, layer, leaves, x, segment_ids, positions, compute, seen.__setitem__)
    sums = None if measure is None else measure(seen, x, y, (segment_ids > 0).astype(jnp.float32))
    return y, sums


def layer_leaves(source: Source, l: int) -> dict[str, Any]:
    """Returns the parameters of global layer `l` by name, without the layers axis."""
    structure = source.config.layers[l].ffn
    stack = source.config.layers_of(structure).index(l)
    names = block_specs(source.config, structure)
    return {n: jnp.asarray(source.read(f"blocks/{structure}/{n}", stack)) for n in names}


def outer_leaves(source: Source) -> dict[str, Any]:
    """Returns the parameters outside the blocks as a nested dict."""
    from jaxpt.models import unflatten

    flat = flatten(param_specs(source.config))
    return unflatten({p: jnp.asarray(source.read(p)) for p, s in flat.items() if not s.stacked})


def walk(
    source: Source,
    batches: Sequence[Mapping[str, Any]],
    measure: Measure | None = None,
    finished: Callable[[int, Any], None] = lambda l, sums: None,
    compute: Compute = Compute(),  # noqa: B008
) -> list[jax.Array]:
    """Runs all batches through all layers, layer by layer, and returns their last streams `[B, S, D]`.

    Args:
        source: the model.
        batches: dicts with `tokens`, `segment_ids` (0 is padding) and `positions`, each `[B, S]`.
        measure: computes sums over one batch inside `jit`; keep it the same object between calls.
        finished: called after each layer with its global number and the sums over all batches, on the host.
        compute: dtypes and attention implementation.

    Raises:
        JaxptError: no batches.
    """
    c = source.config
    if not batches:
        raise JaxptError("calibration needs at least one batch")
    table = jnp.asarray(source.read("embed/table"))
    streams = [embed_tokens(c, table, jnp.asarray(b["tokens"]), compute) for b in batches]
    del table
    for l, layer in enumerate(c.layers):
        one = c.replace(layers=(layer,))  # equal layers share one compilation, whatever the depth
        leaves = layer_leaves(source, l)
        total: Any = None
        for i, b in enumerate(batches):
            at = (jnp.asarray(b["segment_ids"]), jnp.asarray(b["positions"]))
            streams[i], sums = _step(one, layer, compute, measure, leaves, streams[i], *at)
            total = sums if total is None else jax.tree.map(jnp.add, total, sums)
        finished(l, jax.tree.map(_on_host, total))
    return streams


def _on_host(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(x, tiled=True))


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _nll(
    config: ModelConfig, compute: Compute, outer: Any, x: jax.Array, targets: jax.Array, weights: jax.Array
) -> Any:
    nll, _ = from_logits(finish(config, outer, x, compute), targets)
    return (nll * weights).sum(), weights.sum()


def loss(source: Source, batches: Sequence[Mapping[str, Any]], compute: Compute = Compute()) -> float:  # noqa: B008
    """Returns the weighted mean next-token loss in nats over all batches (which also hold `targets, loss_weights`)."""
    outer = outer_leaves(source)
    one = source.config.replace(layers=source.config.layers[:1])
    total = np.zeros(2)
    for x, b in zip(walk(source, batches, compute=compute), batches):
        total += [
            float(v) for v in _nll(one, compute, outer, x, jnp.asarray(b["targets"]), jnp.asarray(b["loss_weights"]))
        ]
    return float(total[0] / total[1])


@dataclass(frozen=True)
class Also:
    """Sums that are taken in the pass that scores a model.

    After each layer `finished` gets its global number, its own scores (as if it were the only layer) and the sums.
    """

    measure: Measure
    finished: Callable[[int, Scores, Any], None]


def activation_scores(
    source: Source,
    batches: Iterable[Mapping[str, Any]],
    *,
    data: Any,
    over_sequence: str = "mean",
    over_batch: str = "l2",
    removal: bool = False,
    also: Also | None = None,
    compute: Compute = Compute(),  # noqa: B008
) -> Scores:
    """Returns scores from a forward pass (Muralidharan et al. 2024, Minitron; Men et al. 2024, Block Influence).

    A row's score of a position is the mean over its tokens of |activation| (or their root mean square); rows are
    combined as the root of the sum of squares (or the mean). `embed` looks at every branch's input, summed over
    branches and layers; `mlp` at what down reads; `heads` at what o reads, as the L2 norm over a
    head; a kv head's score is that of its group. An expert's score is the mean over all tokens of its routing weight
    times the norm of its output, a neuron's in it that of the weight times |activation|.

    Args:
        source: the model.
        batches: see `walk`; with `removal` also `targets` and `loss_weights`.
        data: what identifies the data (fingerprints), kept with the scores.
        over_sequence: "mean" or "l2".
        over_batch: "l2" or "mean".
        removal: also measure the loss change when each layer alone is left out, at the price of L more passes.
        also: further sums to be taken in the same pass, and what gets them.
        compute: dtypes and attention implementation.

    Raises:
        JaxptError: no batches, or an unknown aggregation.
    """
    _check_aggregation(over_sequence, over_batch)
    batches = list(batches)
    sums: list[dict[str, np.ndarray]] = []

    def finished(l: int, s: Any) -> None:
        sums.append(s[0])
        if also is not None:
            own = _finish_scores(source.config, _stacked(sums[-1:]), over_batch)
            also.finished(l, Scores(own, {}), s[1])

    walk(source, batches, _measure(over_sequence, over_batch, also and also.measure), finished, compute)
    values = _finish_scores(source.config, _stacked(sums), over_batch)
    tokens = sum(int(np.prod(np.shape(b["tokens"]))) for b in batches)
    passes = 1
    if removal:
        values["layers_loss"] = removal_losses(source, batches, compute)
        passes += len(source.config.layers) + 1
    length = np.shape(batches[0]["tokens"])[1]
    meta = {
        "method": "activations",
        "data": data,
        "tokens": tokens,
        "flops": passes * tokens * source.config.flops_per_token(length, backward=False),
        "over_sequence": over_sequence,
        "over_batch": over_batch,
    }
    return Scores(values, meta)


def _check_aggregation(over_sequence: str, over_batch: str) -> None:
    for name, value, known in (
        ("over_sequence", over_sequence, OVER_SEQUENCE),
        ("over_batch", over_batch, OVER_BATCH),
    ):
        if value not in known:
            raise JaxptError(f"scores: {name} is {value!r}, it must be one of {', '.join(known)}")


@functools.lru_cache(maxsize=8)
def _measure(over_sequence: str, over_batch: str, more: Measure | None) -> Measure:
    def rows(x: jax.Array, weight: jax.Array) -> jax.Array:
        """Combines `[B, S, ...]` over the sequence, then over the batch (as a sum that is finished later)."""
        x = x.astype(jnp.float32)
        w = weight.reshape(*weight.shape, *[1] * (x.ndim - 2))
        count = jnp.maximum(w.sum(1), 1)
        y = (jnp.abs(x) * w).sum(1) / count if over_sequence == "mean" else jnp.sqrt((x * x * w).sum(1) / count)
        return (y * y).sum(0) if over_batch == "l2" else y.sum(0)

    def measure(seen: dict[str, jax.Array], x: jax.Array, y: jax.Array, weight: jax.Array) -> Any:
        beside = None if more is None else more(seen, x, y, weight)
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        before, after = jnp.linalg.norm(x, axis=-1), jnp.linalg.norm(y, axis=-1)
        cosine = (x * y).sum(-1) / jnp.maximum(before * after, 1e-30)
        sums = {
            "attention_in": rows(seen["attention_in"], weight),
            "ffn_in": rows(seen["ffn_in"], weight),
            "attention_out": rows(seen["attention_out"], weight),
            **{name: rows(seen[name], weight) for name in ("ffn_hidden", "shared_hidden") if name in seen},
            **{name: seen[name] for name in ("expert_hidden", "expert_out") if name in seen},
            "influence": ((1 - cosine) * weight).sum(),
            "growth": (after / jnp.maximum(before, 1e-30) * weight).sum(),
            "count": weight.sum(),
            "rows": (weight.sum(1) > 0).sum().astype(jnp.float32),
        }
        return sums, beside

    return measure


def _stacked(sums: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Sums of all layers by name, `[L, ...]`; zero where a layer has no such thing."""
    shapes = {name: value.shape for layer in sums for name, value in layer.items()}
    return {k: np.stack([s.get(k, np.zeros(shape, np.float32)) for s in sums]) for k, shape in shapes.items()}


def _finish_scores(config: ModelConfig, sums: dict[str, np.ndarray], over_batch: str) -> dict[str, np.ndarray]:
    rows = sums["rows"][0]

    def done(x: np.ndarray) -> np.ndarray:
        return np.sqrt(x) if over_batch == "l2" else x / rows

    dims = done(sums["attention_out"])  # [L, H, h]
    grouped = dims.reshape(len(dims), config.kv_heads, config.group, -1)
    heads = np.sqrt((dims**2).sum(-1))
    out = {
        "embed": done(sums["attention_in"]).sum(0) + done(sums["ffn_in"]).sum(0),
        "mlp": done(sums.get("ffn_hidden", np.zeros((len(dims), config.mlp)))),
        "heads": heads,
        "kv_heads": np.sqrt((grouped**2).sum((2, 3))),
        "head_dim": np.sqrt((grouped**2).sum(2)),
        "layers": sums["influence"] / sums["count"],
        "layers_gain": sums["growth"] / sums["count"],
    }
    if "expert_out" in sums:
        each = sums["count"].reshape(-1, 1)
        out |= {"experts": sums["expert_out"] / each, "expert_mlp": sums["expert_hidden"] / each[..., None]}
    if "shared_hidden" in sums:
        out["shared_mlp"] = done(sums["shared_hidden"])
    return {k: np.asarray(v, np.float32) for k, v in out.items()}


def removal_losses(
    source: Source,
    batches: Sequence[Mapping[str, Any]],
    compute: Compute = Compute(),  # noqa: B008
) -> np.ndarray:
    """Returns, per layer, the loss without it minus the loss with all layers, `[L]` float32 nats per token."""
    from jaxpt.reshape.depth import drop_layers
    from jaxpt.reshape.stream import Reshaped

    whole = loss(source, batches, compute)
    count = len(source.config.layers)
    parts = [loss(Reshaped(source, drop_layers(source.config, [l])), batches, compute) for l in range(count)]
    return np.asarray([p - whole for p in parts], np.float32)
