"""The FLOPs that MFU counts, against sums written out by hand for three architectures."""

import pytest

from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.moe_config import MoeConfig
from jaxpt.models.presets import PRESETS
from jaxpt.models.size import flops_per_token

S = 4096


@pytest.mark.parametrize(("preset", "tied"), [("llama3.2-1b", True), ("llama3-8b", False)])
def test_llama_with_grouped_heads_tied_or_not(preset, tied):
    # Llama 3.2 1B: 16 layers, 2048 wide, 32 heads of 64, 8 for keys and values, mlp 8192, vocabulary 128,256.
    # Llama 3 8B: 32 layers, 4096 wide, 32 heads of 128, 8 for keys and values, mlp 14,336, the same vocabulary.
    layers, d, q, kv, f = (16, 2048, 2048, 512, 8192) if tied else (32, 4096, 4096, 1024, 14_336)
    weights = d * q + d * kv + d * kv + q * d + 3 * d * f
    head = 128_256 * d  # multiplied once, also where it is the table of the embedding
    pairs = (S + 1) / 2  # of a query, causal attention at half
    attention = 2 * 2 * q * pairs  # scores, and what they weigh: a product and an addition for each number of a head
    forward = layers * (2 * weights + attention) + 2 * head
    assert PRESETS[preset].tie_embeddings == tied
    assert flops_per_token(PRESETS[preset], S) == pytest.approx(3 * forward, rel=1e-12)


def test_a_mixture_counts_the_experts_that_a_token_takes_and_its_router():
    moe = MoeConfig(experts=8, experts_per_token=2, mlp=32, shared_mlp=48)
    config = ModelConfig(
        vocab_size=100, embed=16, heads=4, kv_heads=2, head_dim=4, mlp=64, layers=uniform_layers(3, ffn="moe"), moe=moe
    )
    attention_weights = 16 * 16 + 16 * 8 + 16 * 8 + 16 * 16
    experts = 2 * (3 * 16 * 32)
    shared = 3 * 16 * 48
    router = 16 * 8
    layer = 2 * (attention_weights + experts + shared + router) + 4 * 16 * (64 + 1) / 2
    assert flops_per_token(config, 64) == pytest.approx(3 * (3 * layer + 2 * 16 * 100), rel=1e-12)
    dense = 3 * (3 * (2 * (attention_weights + 3 * 16 * 64) + 4 * 16 * 65 / 2) + 2 * 16 * 100)
    assert flops_per_token(config, 64) != pytest.approx(dense)  # another architecture's count would be noticed
