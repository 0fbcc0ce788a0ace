"""Keys of a foreign config.json that do not change the forward pass: why not, and how they travel to an export.

What is not here and not read stops an import, as it may change what the model computes; `jaxpt import --inert=KEY` is
a user's word that it does not.
"""

from collections.abc import Iterable, Mapping

from jaxpt.errors import JaxptError, nearest

# why a key is inert -> the keys
BECAUSE: dict[str, tuple[str, ...]] = {
    "names what the file is, where it came from, and the tools and versions that wrote it": (
        "_name_or_path", "name_or_path", "_commit_hash", "architectures", "model_type", "transformers_version",
        "is_llama_config", "transformers.js_config", "unsloth_version", "unsloth_fixed", "unsloth_optimized",
        "unsloth_tokenizer", "axolotl_config", "finetuning_task", "task_specific_params", "problem_type", "license",
        "pipeline_tag", "library_name", "base_model_name_or_path",
    ),
    "names code of the model's own, which is never run: the family's own forward pass is meant": (
        "auto_map", "custom_pipelines",
    ),
    "is how the weights were stored or computed with, not what they are": (
        "torch_dtype", "dtype", "use_bfloat16", "torchscript", "tf_legacy_loss", "pretraining_tp",
        "attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
        "_flash_attn_2_enabled", "use_flash_attention", "use_flash_attention_2",
        "use_flash_attn", "gradient_checkpointing", "use_reentrant_checkpointing", "chunk_size_feed_forward",
        "ignore_keys_at_rope_validation",
    ),
    "is a length that someone trained or served with; positions come from max_position_embeddings": (
        "max_sequence_length", "max_seq_length", "max_seq_len", "model_max_length", "seq_length", "seq_len",
    ),
    "belongs to the tokenizer or to its special tokens": (
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "cls_token_id",
        "mask_token_id", "decoder_start_token_id", "tokenizer_class", "prefix", "bos_token", "eos_token", "pad_token",
    ),
    "acts in training only (jaxpt trains without dropout)": (
        "initializer_range", "initializer_factor", "init_std", "init_device", "attention_dropout", "hidden_dropout",
        "hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop",
        "resid_dropout", "embd_dropout", "classifier_dropout", "neftune_noise_alpha", "output_router_logits",
        "router_aux_loss_coef", "router_jitter_noise",
    ),
    "is of the library's outputs or of classifiers": (
        "use_cache", "cache_implementation", "output_attentions", "output_hidden_states", "output_scores",
        "return_dict", "return_dict_in_generate", "id2label", "label2id", "is_encoder_decoder", "num_logits_to_keep",
    ),
    "is an option of text generation": (
        "temperature", "top_k", "top_p", "do_sample", "max_length", "min_length", "num_beams", "num_beam_groups",
        "length_penalty", "repetition_penalty", "diversity_penalty", "num_return_sequences", "early_stopping",
        "typical_p", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "forced_bos_token_id",
        "forced_eos_token_id", "begin_suppress_tokens", "suppress_tokens", "exponential_decay_length_penalty",
        "remove_invalid_values",
    ),
}  # fmt: skip
INERT = {key: why for why, keys in BECAUSE.items() for key in keys}
OF_THE_FAMILY = ("architectures", "model_type", "auto_map", "is_llama_config")  # false in another family's config
FLOATS = ("initializer_range", "router_aux_loss_coef", "router_jitter_noise")  # readers refuse whole numbers


def check_named(named: Iterable[str], values: Mapping[str, object], read: Iterable[str], where: str) -> None:
    """Refuses a key that the user calls inert and that is not there, or that the forward pass is made from.

    Raises:
        JaxptError: such a key, with the nearest one of the file.
    """
    for key in named:
        if key in read:
            raise JaxptError(f"--inert={key}: {where} gives {key}, and the model is made from it; leave the flag out")
        if key not in values:
            raise JaxptError(f"--inert={key}: {where} has no such key{nearest(key, values)}")


def carried(original: Mapping[str, object], named: Iterable[str], same_family: bool) -> dict[str, object]:
    """Returns the inert keys of an imported config that go with a config written anew.

    Args:
        original: the imported config.json.
        named: keys that the user called inert.
        same_family: whether the new config is of the same family; if not, what names that family stays behind.
    """
    kept = {k: v for k, v in original.items() if (k in INERT or k in named) and k != "torch_dtype"}
    return {k: v for k, v in kept.items() if same_family or k not in OF_THE_FAMILY}


def loadable(values: Mapping[str, object], written: Mapping[str, object]) -> dict[str, object]:
    """Returns a config.json that says what `values` says in the types that its readers insist on.

    transformers takes no whole number where it declares a float, and no padding id outside the vocabulary.

    Args:
        values: the config; may hold numbers as a stranger wrote them.
        written: the same model's keys as the family writes them.
    """
    out = dict(values)
    for key, value in values.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and (key in FLOATS or (isinstance(written.get(key), float) and written[key] == value)):
            out[key] = float(value)  # type: ignore[arg-type]
    pad, size = out.get("pad_token_id"), written["vocab_size"]
    if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
        out["pad_token_id"] = None
    return out
