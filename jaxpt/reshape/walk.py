"""A forward pass over data, one layer at a time, with sums of what its activations show.

Only one layer's parameters are needed at once, so a model too large for memory is read layer by layer from its bundle;
the streams of all batches are kept instead (`[B, S, D]` each). Under a mesh, batches and slices may be sharded: sums
are taken inside `jit` over the global batch, in float32.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models import Compute, LayerSpec, ModelConfig, ParamSpec, flatten, param_specs, unflatten
from jaxpt.models.batch import Rows
from jaxpt.models.layer import embed_tokens, finish, run_layer
from jaxpt.models.params import Params
from jaxpt.models.specs import block_specs
from jaxpt.reshape.stream import ModelSlices

Activations = Mapping[str, jax.Array]
LayerSums = Mapping[str, np.ndarray]  # over all batches, of one layer, on the host
# (activations, stream before, stream after, weight [B, S]) -> sums over one batch
LayerMeasure = Callable[[Activations, jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]


@functools.partial(jax.jit, static_argnames=("config", "layer", "compute", "measure"))
def _step(
    config: ModelConfig,
    layer: LayerSpec,
    compute: Compute,
    measure: LayerMeasure | None,
    leaves: Mapping[str, jax.Array],
    x: jax.Array,
    segment_ids: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    activations: dict[str, jax.Array] = {}
    y = run_layer(config, layer, leaves, x, segment_ids, positions, compute, activations.__setitem__)
    sums = {} if measure is None else measure(activations, x, y, (segment_ids > 0).astype(jnp.float32))
    return y, sums


def layer_leaves(source: ModelSlices, l: int) -> dict[str, jax.Array]:
    """Returns the parameters of global layer `l` by name, without the layers axis."""
    structure = source.config.layers[l].ffn
    stack = source.config.layers_of(structure).index(l)
    names = block_specs(source.config, structure)
    return {n: jnp.asarray(source.read(f"blocks/{structure}/{n}", stack)) for n in names}


def outer_leaves(source: ModelSlices) -> Params:
    """Returns the parameters outside the blocks as a nested dict."""
    flat = flatten(param_specs(source.config))
    return unflatten({p: jnp.asarray(source.read(p)) for p, s in flat.items() if not s.stacked})


def _token_table(source: ModelSlices) -> jax.Array:
    """The parameter that makes the first stream out of tokens, `[V, D]`."""
    flat: dict[str, ParamSpec] = flatten(param_specs(source.config))
    (path,) = [p for p, spec in flat.items() if "vocab" in spec.axes and spec.residual == "writes"]
    return jnp.asarray(source.read(path))


def walk(
    source: ModelSlices,
    batches: Sequence[Rows[np.ndarray]],
    measure: LayerMeasure | None = None,
    on_layer: Callable[[int, LayerSums], object] = lambda l, sums: None,
    compute: Compute = Compute(),  # noqa: B008
) -> list[jax.Array]:
    """Runs all batches through all layers, layer by layer, and returns their last streams `[B, S, D]`.

    Args:
        source: the model.
        batches: dicts with `tokens`, `segment_ids` (0 is padding) and `positions`, each `[B, S]`.
        measure: computes sums over one batch inside `jit`; keep it the same object between calls.
        on_layer: called after each layer with its global number and the sums over all batches.
        compute: dtypes and attention implementation.

    Raises:
        JaxptError: no batches.
    """
    c = source.config
    if not batches:
        raise JaxptError("calibration needs at least one batch")
    table = _token_table(source)
    streams = [embed_tokens(c, table, jnp.asarray(b["tokens"]), compute) for b in batches]
    del table
    for l, layer in enumerate(c.layers):
        one = c.replace(layers=(layer,))  # equal layers share one compilation, whatever the depth
        leaves = layer_leaves(source, l)
        total: dict[str, jax.Array] = {}
        for i, b in enumerate(batches):
            at = (jnp.asarray(b["segment_ids"]), jnp.asarray(b["positions"]))
            streams[i], sums = _step(one, layer, compute, measure, leaves, streams[i], *at)
            total = {name: total[name] + x if name in total else x for name, x in sums.items()}
        on_layer(l, {name: _on_host(x) for name, x in total.items()})
    return streams


def _on_host(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(x, tiled=True))


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def _nll(
    config: ModelConfig, compute: Compute, outer: Params, x: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    nll, _ = from_logits(finish(config, outer, x, compute), targets)
    return (nll * weights).sum(), weights.sum()


def loss(source: ModelSlices, batches: Sequence[Rows[np.ndarray]], compute: Compute = Compute()) -> float:  # noqa: B008
    """Returns the weighted mean next-token loss in nats over all batches (which also hold `targets, loss_weights`)."""
    outer = outer_leaves(source)
    one = source.config.replace(layers=source.config.layers[:1])
    total = np.zeros(2)
    for x, b in zip(walk(source, batches, compute=compute), batches):
        total += [
            float(v) for v in _nll(one, compute, outer, x, jnp.asarray(b["targets"]), jnp.asarray(b["loss_weights"]))
        ]
    return float(total[0] / total[1])
