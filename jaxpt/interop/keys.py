"""Reading a foreign config.json key by key, so that nothing it asks for is passed over in silence."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.models.config import LayerSpec, RopeConfig

# Keys that do not change the forward pass of a causal language model.
INERT = {
    "_name_or_path", "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "initializer_range",
    "attention_dropout", "hidden_dropout", "cache_implementation", "output_attentions", "output_hidden_states",
    "return_dict", "return_dict_in_generate", "output_scores", "id2label", "label2id", "problem_type",
    "task_specific_params", "chunk_size_feed_forward", "is_encoder_decoder", "tokenizer_class", "prefix",
    "finetuning_task", "name_or_path", "pretraining_tp", "temperature", "top_k", "top_p", "do_sample", "max_length",
    "min_length", "num_beams", "num_beam_groups", "length_penalty", "repetition_penalty", "diversity_penalty",
    "num_return_sequences", "early_stopping", "typical_p", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens", "suppress_tokens",
    "exponential_decay_length_penalty", "remove_invalid_values", "tf_legacy_loss", "torchscript", "use_bfloat16",
    "attn_implementation", "_attn_implementation", "ignore_keys_at_rope_validation", "output_router_logits",
    "router_aux_loss_coef", "router_jitter_noise",
}  # fmt: skip

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


class Keys:
    """A config.json being read; `finish` refuses what was not asked for and is not known to be inert."""

    def __init__(self, values: Mapping[str, Any], where: str):
        """Starts reading `values`; `where` names the file in errors."""
        self.values, self.where = dict(values), where
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value, `default` where the key is absent or null."""
        self._read.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def need(self, key: str) -> Any:
        """Returns a value that must be there."""
        if self.values.get(key) is None:
            raise JaxptError(f"{self.where} lacks {key}")
        return self.get(key)

    def refuse(self, key: str, why: str = "jaxpt does not implement it") -> JaxptError:
        """Returns the error that names a key and its value."""
        return JaxptError(f"{self.where} asks for {key}={self.values.get(key)!r}: {why}")

    def must_be(self, key: str, *allowed: Any) -> None:
        """Refuses any value but `allowed` (an absent key is fine)."""
        if self.get(key, allowed[0]) not in allowed:
            raise self.refuse(key)

    def activation(self, key: str = "hidden_act", default: str = "silu") -> str:
        """Returns our name of the activation."""
        name = self.get(key, default)
        if name not in ACTIVATIONS:
            raise self.refuse(key, f"known activations are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def rope(self, theta: float, max_positions: int) -> RopeConfig:
        """Returns the rope of either dialect: `rope_theta` with `rope_scaling`, or `rope_parameters`."""
        values = dict(self.get("rope_parameters", {}))
        scaling = dict(self.get("rope_scaling", {}))
        base = self.get("rope_theta", theta)
        if any(isinstance(v, Mapping) for v in values.values()):
            raise self.refuse("rope_parameters", "a rope per layer type is not read for this family")
        values = {"rope_theta": base, **scaling, **values}
        kind = values.pop("rope_type", None) or values.pop("type", None) or "default"
        values.pop("type", None)
        known = {"linear", "llama3", "yarn", "default"}
        if kind not in known:
            raise JaxptError(f"{self.where} asks for rope type {kind!r}; jaxpt implements {', '.join(sorted(known))}")
        if values.pop("partial_rotary_factor", 1.0) != 1.0:
            raise self.refuse("rope_parameters", "partial rotary factors are not implemented")
        made: dict[str, Any] = {"kind": kind, "theta": float(values.pop("rope_theta"))}
        if kind != "default":
            made["factor"] = float(values.pop("factor"))
            original = values.pop("original_max_position_embeddings", None)
            if kind != "linear":
                made["original_max_positions"] = int(
                    original or self.get("original_max_position_embeddings") or max_positions
                )
        numbers = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": ("beta_fast", "beta_slow")}
        for name in numbers.get(kind, ()):
            if values.get(name) is not None:
                made[name] = float(values[name])
            values.pop(name, None)
        if kind == "yarn":
            made |= _yarn(values, made["factor"])
        left = {k: v for k, v in values.items() if v is not None and not k.startswith("_")}
        if left and kind != "default":
            told = ", ".join(f"{k}={v!r}" for k, v in left.items())
            raise JaxptError(f"{self.where}: rope {kind!r} with {told} is not implemented")
        return RopeConfig(**made)

    def finish(self) -> None:
        """Refuses keys that were not read, are not inert and carry a value."""
        for key, value in self.values.items():
            empty = value is None or value is False or value in ("", [], {}, 0, 0.0, 1.0)
            if key not in self._read and key not in INERT and not empty:
                raise self.refuse(key, "jaxpt does not know this key; remove it if it does not change the forward pass")


def _yarn(values: dict[str, Any], factor: float) -> dict[str, Any]:
    """Attention factor and ramp of YaRN; `mscale` and `mscale_all_dim` are DeepSeek's way of writing the former."""
    import math

    def scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    attention, top, all_dim = (values.pop(k, None) for k in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is None and top and all_dim:
        attention = scale(top) / scale(all_dim)
    truncate = values.pop("truncate", None)
    return {"attention_factor": attention, "truncate": True if truncate is None else bool(truncate)}


def layer_specs(kinds: Sequence[str], window: int | None, where: str) -> tuple[LayerSpec, ...]:
    """Returns the layers of `layer_types`.

    Raises:
        JaxptError: a kind that is neither full nor sliding attention, or sliding without a window.
    """
    out = []
    for kind in kinds:
        if kind == "full_attention":
            out.append(LayerSpec())
        elif kind == "sliding_attention" and window is not None:
            out.append(LayerSpec("window", window))
        else:
            raise JaxptError(
                f"{where} asks for layer type {kind!r} (sliding_window {window}), which jaxpt does not implement"
            )
    return tuple(out)


def write_rope(rope: RopeConfig) -> dict[str, Any]:
    """Returns `rope_parameters` for a rope.

    Raises:
        JaxptError: a rope that is an explicit table, which no foreign config can say.
    """
    if rope.inv_freq is not None:
        raise JaxptError(
            "export: rope.inv_freq (an explicit frequency table) cannot be written in a Hugging Face config"
        )
    out: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        out["factor"] = rope.factor
    if rope.kind in ("llama3", "yarn"):
        out["original_max_position_embeddings"] = rope.original_max_positions
    if rope.kind == "llama3":
        out |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        usual = RopeConfig()
        for name in ("beta_fast", "beta_slow", "truncate", "attention_factor"):
            if getattr(rope, name) != getattr(usual, name):
                out[name] = getattr(rope, name)
    return out
