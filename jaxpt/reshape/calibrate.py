"""Importance scores from a forward pass over calibration data."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import Compute, ModelConfig
from jaxpt.models.batch import Rows
from jaxpt.models.size import flops_per_token
from jaxpt.reshape.depth import drop_layers
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import ModelSlices, Reshaped
from jaxpt.reshape.walk import Activations, LayerMeasure, LayerSums, loss, walk

OVER_SEQUENCE = ("mean", "l2")
OVER_BATCH = ("l2", "mean")
EXPERT_SUMS = ("expert_hidden", "expert_out", "expert_gated", "expert_tokens")  # of `jaxpt.models.experts.observe`
EXTRA = "extra/"  # begins the names of `ExtraSums` among those of the scores


class Scoring(TypedDict):
    """How scores are taken from data: the options of `activation_scores`."""

    data: object
    over_sequence: str
    over_batch: str
    removal: bool
    compute: Compute


@dataclass(frozen=True)
class ExtraSums:
    """Further sums that are taken in the pass that scores a model.

    After each layer `on_layer` gets its global number, its own scores (as if it were the only layer) and the sums.
    """

    measure: LayerMeasure
    on_layer: Callable[[int, Scores, LayerSums], None]


def activation_scores(
    source: ModelSlices,
    batches: Iterable[Rows[np.ndarray]],
    *,
    data: object,
    over_sequence: str = "mean",
    over_batch: str = "l2",
    removal: bool = False,
    extra: ExtraSums | None = None,
    compute: Compute = Compute(),  # noqa: B008
) -> Scores:
    """Returns scores from a forward pass (Muralidharan et al. 2024, Minitron; Men et al. 2024, Block Influence).

    A row's score of a position is the mean over its tokens of |activation| (or their root mean square); rows are
    combined as the root of the sum of squares (or the mean). `embed` looks at every branch's input, summed over
    branches and layers; `mlp` at what down reads; `heads` at what o reads, as the L2 norm over a head; a kv head's
    score is that of its group. An expert's score is the mean over all tokens of its routing weight times the norm of
    its output, a neuron's in it that of the weight times |activation|; `experts_reap` is the mean over its own tokens
    of the renormalised weight times the norm (Lasby et al. 2025, REAP, arXiv 2510.13999).

    Args:
        source: the model.
        batches: see `jaxpt.reshape.walk`; with `removal` also `targets` and `loss_weights`.
        data: what identifies the data (fingerprints), kept with the scores.
        over_sequence: "mean" or "l2".
        over_batch: "l2" or "mean".
        removal: also measure the loss change when each layer alone is left out, at the price of L more passes.
        extra: further sums to be taken in the same pass, and what gets them.
        compute: dtypes and attention implementation.

    Raises:
        JaxptError: no batches, or an unknown aggregation.
    """
    _check_aggregation(over_sequence, over_batch)
    batches = list(batches)
    layers: list[LayerSums] = []

    def on_layer(l: int, sums: LayerSums) -> None:
        layers.append({name: x for name, x in sums.items() if not name.startswith(EXTRA)})
        if extra is not None:
            own = _finish_scores(source.config, _stacked(layers[-1:]), over_batch)
            more = {name.removeprefix(EXTRA): x for name, x in sums.items() if name.startswith(EXTRA)}
            extra.on_layer(l, Scores(own, {}), more)

    walk(source, batches, _measure(over_sequence, over_batch, extra and extra.measure), on_layer, compute)
    values = _finish_scores(source.config, _stacked(layers), over_batch)
    tokens = sum(int(b["tokens"].size) for b in batches)
    if removal:
        values["layers_loss"] = removal_losses(source, batches, compute)
    passes = 1 + removal * (len(source.config.layers) + 1)
    length = batches[0]["tokens"].shape[1]
    meta = {
        "method": "activations",
        "data": data,
        "tokens": tokens,
        "flops": passes * tokens * flops_per_token(source.config, length, backward=False),
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
def _measure(over_sequence: str, over_batch: str, extra: LayerMeasure | None) -> LayerMeasure:
    def rows(x: jax.Array, weight: jax.Array) -> jax.Array:
        """Combines `[B, S, ...]` over the sequence, then over the batch (as a sum that is finished later)."""
        x = x.astype(jnp.float32)
        w = weight.reshape(*weight.shape, *[1] * (x.ndim - 2))
        count = jnp.maximum(w.sum(1), 1)
        y = (jnp.abs(x) * w).sum(1) / count if over_sequence == "mean" else jnp.sqrt((x * x * w).sum(1) / count)
        return (y * y).sum(0) if over_batch == "l2" else y.sum(0)

    def measure(a: Activations, x: jax.Array, y: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
        more = {} if extra is None else extra(a, x, y, weight)
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
        before, after = jnp.linalg.norm(x, axis=-1), jnp.linalg.norm(y, axis=-1)
        cosine = (x * y).sum(-1) / jnp.maximum(before * after, 1e-30)
        return {
            "attention_in": rows(a["attention_in"], weight),
            "ffn_in": rows(a["ffn_in"], weight),
            "attention_out": rows(a["attention_out"], weight),
            **{name: rows(a[name], weight) for name in ("ffn_hidden", "shared_hidden") if name in a},
            **{name: a[name] for name in EXPERT_SUMS if name in a},
            "influence": ((1 - cosine) * weight).sum(),
            "growth": (after / jnp.maximum(before, 1e-30) * weight).sum(),
            "count": weight.sum(),
            "rows": (weight.sum(1) > 0).sum().astype(jnp.float32),
            **{EXTRA + name: value for name, value in more.items()},
        }

    return measure


def _stacked(sums: Sequence[LayerSums]) -> LayerSums:
    """Sums of all layers by name, `[L, ...]`; zero where a layer has no such thing."""
    shapes = {name: value.shape for layer in sums for name, value in layer.items()}
    return {k: np.stack([s.get(k, np.zeros(shape, np.float32)) for s in sums]) for k, shape in shapes.items()}


def _finish_scores(config: ModelConfig, sums: LayerSums, over_batch: str) -> dict[str, np.ndarray]:
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
        out["experts_reap"] = sums["expert_gated"] / np.maximum(sums["expert_tokens"], 1)
    if "shared_hidden" in sums:
        out["shared_mlp"] = done(sums["shared_hidden"])
    return {k: np.asarray(v, np.float32) for k, v in out.items()}


def removal_losses(
    source: ModelSlices,
    batches: Sequence[Rows[np.ndarray]],
    compute: Compute = Compute(),  # noqa: B008
) -> np.ndarray:
    """Returns, per layer, the loss without it minus the loss with all layers, `[L]` float32 nats per token."""
    whole = loss(source, batches, compute)
    count = len(source.config.layers)
    parts = [loss(Reshaped(source, drop_layers(source.config, [l])), batches, compute) for l in range(count)]
    return np.asarray([p - whole for p in parts], np.float32)
