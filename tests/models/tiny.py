"""Small models for tests, one per architecture feature, and parameters whose gains and biases matter."""

from collections.abc import Iterable

import jax
import pytest

from jaxpt.models import LayerSpec, ModelConfig, MoeConfig, RopeConfig, param_specs, unflatten, uniform_layers
from jaxpt.models.specs import flatten


def config(**changes) -> ModelConfig:
    """A Llama-like decoder of three layers with heads in groups of three."""
    base = {
        "vocab_size": 61,
        "embed": 24,
        "heads": 6,
        "kv_heads": 2,
        "head_dim": 8,
        "mlp": 40,
        "layers": uniform_layers(3),
        "max_positions": 64,
    }
    return ModelConfig(**(base | changes))


VARIANTS: dict[str, ModelConfig] = {
    "llama": config(),
    "tied": config(tie_embeddings=True),
    "qwen2": config(qkv_bias=True, norm_eps=1e-6),
    "qwen3": config(qk_norm="head", qk_norm_eps=1e-4),
    "olmo2": config(qk_norm="full", norm_position="post"),
    "gemma2": config(
        layers=(LayerSpec("window", 5), LayerSpec()) * 2,
        activation="gelu_tanh",
        norm_position="pre_post",
        norm_gain_offset=1,
        norm_cast_order="gain_before_cast",
        attention_softcap=20.0,
        logit_softcap=10.0,
        attention_scale=0.25,
        embed_scale=24**0.5,
        tie_embeddings=True,
    ),
    "local_rope": config(
        layers=(LayerSpec("window", 4, "local"), LayerSpec(), LayerSpec(rope="none")),
        rope_local=RopeConfig(theta=100.0),
    ),
    "o_bias": config(qkv_bias=True, o_bias=True),
    "moe": config(layers=uniform_layers(3, ffn="moe"), moe=MoeConfig(6, 2, 16), qk_norm="head"),
    "moe_mixed": config(
        layers=(LayerSpec(), *uniform_layers(2, ffn="moe")),
        moe=MoeConfig(4, 2, 12, 20, True, "softmax", 1.5, selection_bias=True),
        tie_embeddings=True,
    ),
}
DENSE = {name: c for name, c in VARIANTS.items() if c.moe is None}
OFTEN = (
    "llama",
    "gemma2",
    "moe_mixed",
    "qwen2_moe",
)  # the others of these go with the slow tests where each takes seconds


def some_slow(names: Iterable[str]) -> list[object]:
    """The names as parameters of a test, those that are not in `OFTEN` with the slow tests."""
    return [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in names]


def random_params(c: ModelConfig, seed: int = 0, std: float = 0.2):
    """Every parameter drawn at random, gains around one, so that a forgotten gain or bias changes the logits."""
    out = {}
    for i, (path, spec) in enumerate(flatten(param_specs(c)).items()):
        noise = std * jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), spec.shape)
        out[path] = noise + 1.0 if spec.init == "ones" else noise
    return unflatten(out)
