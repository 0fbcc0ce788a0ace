"""How large a model is and what it costs: counts that follow from its config and its axis table."""

from jaxpt.models.config import ModelConfig
from jaxpt.models.specs import flatten, param_specs


def param_count(config: ModelConfig) -> int:
    """Number of parameters, a tied head counted once."""
    return sum(spec.size for spec in flatten(param_specs(config)).values())


def active_param_count(config: ModelConfig) -> int:
    """Number of parameters that one token passes through: of the routed experts only `experts_per_token`."""
    total = 0
    for spec in flatten(param_specs(config)).values():
        moe = config.moe if "expert_mlp" in spec.axes else None
        total += spec.size if moe is None else spec.size * moe.experts_per_token // moe.experts
    return total


def flops_per_token(config: ModelConfig, sequence_length: int, *, backward: bool = True) -> float:
    """Floating-point operations per position of a training step (or of a forward pass alone).

    A multiply-add counts as two; causal attention counts at half: a query of a full layer sees (S + 1) / 2 keys on
    average, one of a window layer at most `window`. The embedding look-up is free, the head is not. Backward
    counts twice the forward; recomputation by remat is not counted (the MFU convention of PaLM, appendix B).
    """
    d, f, hd = config.embed, config.mlp, config.head_dim
    projections = 2 * d * hd * (2 * config.heads + 2 * config.kv_heads)
    ffn = {"dense": 6 * d * f, "moe": 0}
    if (m := config.moe) is not None:
        width = m.experts_per_token * m.mlp + m.shared_mlp
        ffn["moe"] = 6 * d * width + 2 * d * (m.experts + m.shared_score)
    total = 0.0
    for layer in config.layers:
        seen = _mean_keys(sequence_length, layer.window)
        total += projections + ffn[layer.ffn] + 4 * config.heads * hd * seen
    total += 2 * d * config.vocab_size
    return total * (3 if backward else 1)


def _mean_keys(sequence_length: int, window: int | None) -> float:
    """Mean number of keys a causal query sees over positions 0 … S-1."""
    s = sequence_length
    if window is None or window >= s:
        return (s + 1) / 2
    return (window * (window + 1) / 2 + (s - window) * window) / s
