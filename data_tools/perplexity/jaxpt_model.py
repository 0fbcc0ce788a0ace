"""A jaxpt model as a scorer: a bundle on all devices, batches split over them, one compiled shape."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data_tools.perplexity.scorers import ModelScorer
from jaxpt.bundles import open_bundle
from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.models import Compute, Model, ModelConfig, forward, param_specs
from jaxpt.models.params import Params
from jaxpt.sharding import batch_sharding, make_mesh, param_shardings


def log_probabilities(
    config: ModelConfig, params: Params, tokens: jax.Array, segment_ids: jax.Array, compute: Compute
) -> jax.Array:
    """Returns the natural log-probability of each token given those before it, `[B, S]` float32; column 0 is 0."""
    logits = forward(config, params, tokens, segment_ids=segment_ids, compute=compute)
    nll, _ = from_logits(logits[:, :-1], tokens[:, 1:])
    return jnp.pad(-nll, ((0, 0), (1, 0)))


def scorer(model: Model, batch_size: int = 8, sequence_length: int = 1024, max_tokens: int = 16_384) -> ModelScorer:
    """Returns a scorer that computes with `model` on all devices.

    Args:
        model: with a tokenizer; perplexities are per token of it.
        batch_size: windows at a time, a multiple of the number of devices.
        sequence_length: tokens per window.
        max_tokens: of each text, from its beginning.

    Raises:
        JaxptError: no tokenizer, or a batch that the devices cannot share evenly.
    """
    if model.tokenizer is None:
        raise JaxptError("perplexity: the model has no tokenizer; give a bundle that has one")
    devices = len(jax.devices())
    if batch_size % devices:
        raise JaxptError(f"perplexity: batch_size={batch_size} must be a multiple of the {devices} devices")
    mesh = make_mesh({"data" if model.config.embed % devices else "fsdp": -1})  # whole copies where it does not split
    params = jax.device_put(model.params, param_shardings(param_specs(model.config), mesh))
    split = batch_sharding(mesh)
    compute = Compute()

    @jax.jit
    def run(params: Params, tokens: jax.Array, segment_ids: jax.Array) -> jax.Array:
        return log_probabilities(model.config, params, tokens, segment_ids, compute)

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        begin = [] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id]
        return [np.concatenate([begin, ids]).astype(np.int32) for ids in model.tokenizer.encode_batch(list(texts))]

    def score(tokens: np.ndarray, segment_ids: np.ndarray) -> np.ndarray:
        with jax.set_mesh(mesh):
            return np.asarray(run(params, jax.device_put(tokens, split), jax.device_put(segment_ids, split)))

    return ModelScorer(encode, score, batch_size, sequence_length, max_tokens)


def open_scorer(path: str | Path, **sizes: int) -> ModelScorer:
    """Returns the scorer of the bundle at `path`; `sizes` as in `scorer`."""
    return scorer(open_bundle(path).model(), **sizes)
