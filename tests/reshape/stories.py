"""The real tiny model of the shared data, read straight from its safetensors file, and real batches for it."""

import json

import numpy as np
from safetensors.numpy import load_file

from jaxpt.models import Model, ModelConfig, RopeConfig, unflatten, uniform_layers
from jaxpt.tokenizers import load


def stories(shared) -> Model:
    """stories260K with its tokenizer."""
    folder = shared / "data" / "stories260K" / "hf"
    facts = json.loads((folder / "config.json").read_text())
    d, n = facts["hidden_size"], facts["num_attention_heads"]
    k, h = facts["num_key_value_heads"], facts["hidden_size"] // facts["num_attention_heads"]
    layers = facts["num_hidden_layers"]
    config = ModelConfig(
        facts["vocab_size"],
        d,
        n,
        k,
        h,
        facts["intermediate_size"],
        uniform_layers(layers),
        norm_eps=facts["rms_norm_eps"],
        rope=RopeConfig(theta=facts.get("rope_theta", 10_000.0)),
        tie_embeddings=True,
        max_positions=facts["max_position_embeddings"],
    )
    w = load_file(folder / "model.safetensors")

    def stack(name, shape=None, turn=True):
        out = [w[f"model.layers.{l}.{name}.weight"] for l in range(layers)]
        return np.stack([(a.T if turn and a.ndim == 2 else a).reshape(shape or -1) for a in out])

    leaves = {
        "embed/table": w["model.embed_tokens.weight"],
        "blocks/dense/attn_norm": stack("input_layernorm"),
        "blocks/dense/mlp_norm": stack("post_attention_layernorm"),
        "blocks/dense/q": stack("self_attn.q_proj", (d, n, h)),
        "blocks/dense/k": stack("self_attn.k_proj", (d, k, h)),
        "blocks/dense/v": stack("self_attn.v_proj", (d, k, h)),
        "blocks/dense/o": stack("self_attn.o_proj", (n, h, d)),
        "blocks/dense/gate": stack("mlp.gate_proj", (d, config.mlp)),
        "blocks/dense/up": stack("mlp.up_proj", (d, config.mlp)),
        "blocks/dense/down": stack("mlp.down_proj", (config.mlp, d)),
        "final_norm": w["model.norm.weight"],
    }
    leaves = {p: np.ascontiguousarray(a, np.float32) for p, a in leaves.items()}
    return Model(config, unflatten(leaves), load(folder / "tokenizer.model"))


TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    'big red ball. She wanted to play with it, but it was too high. Her mom said, "Don\'t worry, I will help you." '
)


def story_batches(model: Model, shared, count=2, rows=8, length=64):
    """Batches of text in the model's style, made by the model's own golden continuations and a few sentences."""
    golden = json.loads((shared / "data" / "stories260K" / "golden_greedy.json").read_text())
    texts = [TEXT] + [str(v) for v in _strings(golden) if len(str(v)) > 40]
    ids = [i for _ in range(12) for t in texts for i in [model.tokenizer.bos_id, *model.tokenizer.encode(t)]]
    ids = (ids * (1 + count * rows * (length + 1) // len(ids)))[: count * rows * (length + 1)]
    grid = np.array(ids, np.int32).reshape(count, rows, length + 1)
    at = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return [
        {
            "tokens": g[:, :-1],
            "targets": g[:, 1:],
            "segment_ids": np.ones((rows, length), np.int32),
            "positions": at,
            "loss_weights": np.ones((rows, length), np.float32),
        }
        for g in grid
    ]


def _strings(value):
    if isinstance(value, dict):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, list):
        for v in value:
            yield from _strings(v)
    elif isinstance(value, str):
        yield value
