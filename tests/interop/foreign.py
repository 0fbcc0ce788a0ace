"""Random models made by transformers, one per family and feature, every parameter redrawn."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

BASE = {
    "vocab_size": 67,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn_mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 1.1,
        "truncate": False,
    },
    "yarn_given": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
}


def _case(kind, scaling="default", **changes):
    rope = {"rope_theta": 10_000.0, **SCALINGS[scaling]}
    return kind, {**BASE, "rope_parameters": rope, **changes}


CASES = {
    "llama": _case("llama"),
    "llama_tied_biased": _case("llama", tie_word_embeddings=True, attention_bias=True, head_dim=10),
    "llama_linear": _case("llama", "linear"),
    "llama3": _case("llama", "llama3", num_key_value_heads=6),
    "llama_yarn": _case("llama", "yarn"),
    "llama_yarn_given": _case("llama", "yarn_given"),
    "qwen2": _case("qwen2"),
    "qwen2_windows": _case(
        "qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=2, tie_word_embeddings=True
    ),
    "qwen3": _case("qwen3", head_dim=8),
    "qwen3_biased": _case("qwen3", "yarn_mscale", head_dim=8, attention_bias=True, tie_word_embeddings=True),
    "mistral": _case("mistral", sliding_window=7),
    "mistral_full": _case("mistral", sliding_window=None, head_dim=8),
    "olmo2": _case("olmo2"),
    "olmo2_biased": _case("olmo2", attention_bias=True, num_key_value_heads=3),
    "gemma2": _case("gemma2", head_dim=8, sliding_window=6, query_pre_attn_scalar=24),
    "gemma2_uncapped": _case(
        "gemma2",
        head_dim=8,
        sliding_window=6,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        attention_bias=True,
    ),
}
MIXTURE = {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
CASES |= {
    "mixtral": _case("mixtral", num_local_experts=5, num_experts_per_tok=2),
    "mixtral_windows": _case(
        "mixtral",
        "yarn",
        head_dim=8,  # the library's own yarn needs it said
        num_local_experts=3,
        num_experts_per_tok=2,
        sliding_window=7,
        tie_word_embeddings=True,
    ),
    "qwen2_moe": _case("qwen2_moe", shared_expert_intermediate_size=28, **MIXTURE),
    "qwen2_moe_mixed": _case(
        "qwen2_moe",
        shared_expert_intermediate_size=28,
        mlp_only_layers=[2],
        norm_topk_prob=True,
        qkv_bias=False,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=3,
        **MIXTURE,
    ),
    "qwen3_moe": _case("qwen3_moe", head_dim=8, norm_topk_prob=True, **MIXTURE),
    "qwen3_moe_mixed": _case(
        "qwen3_moe",
        "yarn",
        head_dim=8,
        decoder_sparse_step=2,
        attention_bias=True,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=6,
        **MIXTURE,
    ),
    "olmoe": _case("olmoe", num_experts=7, num_experts_per_tok=3),
    "olmoe_biased": _case(
        "olmoe", "llama3", num_experts=4, num_experts_per_tok=1, norm_topk_prob=True, attention_bias=True
    ),
}


def made(name, dtype="float32"):
    """A transformers model whose every parameter is normal with deviation 0.1 (gains around one)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, values = CASES[name]
    config = AutoConfig.for_model(kind, **values)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    return redrawn(model).to(getattr(torch, dtype))


def redrawn(model, deviation=0.1):
    """The model, every parameter drawn at random; a gain around one (around zero in Gemma, which adds the one)."""
    import torch

    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, p in model.named_parameters():
            gain = "norm" in path and model.config.model_type != "gemma2"
            noise = torch.randn(p.shape, generator=draw) * (0.1 if "norm" in path else deviation)
            p.copy_(noise + (1.0 if gain else 0.0))
    return model


def logits(model, tokens, mask=None, positions=None):
    """float32 logits of the foreign model as numpy."""
    import torch

    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(tokens),
            attention_mask=None if mask is None else torch.tensor(mask),
            position_ids=None if positions is None else torch.tensor(positions),
        )
    return out.logits.float().numpy()
