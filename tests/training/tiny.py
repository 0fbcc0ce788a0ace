"""A tiny model, mesh and batches for the tests of the training room."""

import jax
import numpy as np

from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.specs import param_specs
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

MODEL = ModelConfig(
    vocab_size=48, embed=16, heads=4, kv_heads=2, head_dim=8, mlp=32, layers=uniform_layers(2), tie_embeddings=True
)
PARAMS = jax.device_get(init_params(MODEL, 0))
B, S = 8, 16


def batch(seed=0, rows=B, length=S):
    """A batch with two packed documents a row and loss weights that differ a lot between rows."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, MODEL.vocab_size, (rows, length + 1))
    cut = rng.integers(2, length - 2, (rows, 1))
    index = np.arange(length)[None]
    weights = (rng.random((rows, length)) < rng.random((rows, 1))).astype(np.float32)
    weights[0] = 0  # a row, and in the last case a whole microbatch, may count for nothing
    weights[1] = 1
    return {
        "tokens": tokens[:, :-1].astype(np.int32),
        "targets": tokens[:, 1:].astype(np.int32),
        "segment_ids": np.where(index < cut, 1, 2).astype(np.int32),
        "positions": np.where(index < cut, index, index - cut).astype(np.int32),
        "loss_weights": weights,
        "source_id": (np.arange(rows) % 3).astype(np.int32),
    }


def parts(mesh=None, *, microbatches=1, freeze=(), clip=1.0, objective=None, **options):
    """Returns (layout, fresh state, step, placing function); `options` are those of `NextToken`."""
    mesh = mesh or {"fsdp": 1}
    count = int(np.prod(list(mesh.values())))
    layout = make_layout(MODEL, ShardingConfig(mesh=mesh), jax.devices()[:count])
    made = make_optimizer(AdamW(clip_norm=clip), param_specs(MODEL))
    spec = StepSpec(MODEL, objective or NextToken(**options), Compute(), B, S, microbatches, freeze, 3)
    params = jax.tree.map(jax.device_put, jax.tree.map(np.copy, PARAMS), layout.params)
    state = new_state(layout, made, params)
    sharding = batch_sharding(layout.mesh)
    return layout, state, make_step(spec, made, layout), lambda b: place(b, sharding, B)
