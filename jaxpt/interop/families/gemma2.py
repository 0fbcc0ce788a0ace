"""Gemma 2: norms before and after each branch, gains stored as deviations from one, softcaps, alternating windows."""

from jaxpt.interop.family import Family, SharedFacts, whole_embed_per_head
from jaxpt.interop.keys import Keys, layer_specs, read_window
from jaxpt.interop.mapping import BIASES, EMBED, OUTER, PROJECTIONS, Tensor
from jaxpt.models.config import ModelConfig

NORMS = (
    Tensor("model.layers.{i}.input_layernorm.weight", "attn_norm", (EMBED,)),
    Tensor("model.layers.{i}.post_attention_layernorm.weight", "attn_post_norm", (EMBED,)),
    Tensor("model.layers.{i}.pre_feedforward_layernorm.weight", "mlp_norm", (EMBED,)),
    Tensor("model.layers.{i}.post_feedforward_layernorm.weight", "mlp_post_norm", (EMBED,)),
)
ABSENT = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
FIXED = {"norm_position": "pre_post", "norm_gain_offset": 1, "norm_cast_order": "gain_before_cast"}


def _read(keys: Keys, facts: SharedFacts) -> dict[str, object]:
    bias = keys.flag("attention_bias")
    keys.must_be("hidden_act", "gelu_pytorch_tanh", keys.get("hidden_activation"))
    keys.must_be("use_bidirectional_attention", False)
    window = read_window(keys)
    alternate = ["full_attention" if i % 2 else "sliding_attention" for i in range(len(facts["layers"]))]
    scalar = keys.number("query_pre_attn_scalar")
    if scalar <= 0:
        raise keys.refuse("query_pre_attn_scalar", "it must be above 0")
    return {
        "qkv_bias": bias,
        "o_bias": bias,
        "attention_scale": scalar**-0.5,
        "attention_softcap": _cap(keys, "attn_logit_softcapping"),
        "logit_softcap": _cap(keys, "final_logit_softcapping"),
        "embed_scale": facts["embed"] ** 0.5,
        "layers": layer_specs(keys, alternate, window),
    }


def _cap(keys: Keys, key: str) -> float | None:
    if keys.get(key) is None:
        return None
    cap = keys.number(key)
    if cap <= 0:
        raise keys.refuse(key, "it must be above 0, or null for none")
    return cap


def _write(config: ModelConfig) -> dict[str, object]:
    windows = {layer.window for layer in config.layers if layer.window is not None}
    return {
        "attention_bias": config.qkv_bias,
        "hidden_act": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": max(1, round(config.scale**-2)),  # whole; the rest of another scale goes into q
        "attn_logit_softcapping": _float(config.attention_softcap),
        "final_logit_softcapping": _float(config.logit_softcap),
        "sliding_window": max(windows, default=4096),
        "layer_types": ["full_attention" if layer.window is None else "sliding_attention" for layer in config.layers],
    }


def _float(cap: float | None) -> float | None:
    return None if cap is None else float(cap)  # readers that check types refuse a whole number


FAMILY = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    OUTER + PROJECTIONS + BIASES + NORMS,
    FIXED,
    _read,
    _write,
    absent=ABSENT,
    activation_key="hidden_activation",
    limits=(whole_embed_per_head,),
)
