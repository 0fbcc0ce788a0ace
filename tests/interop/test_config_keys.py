"""Each key of each family's config, changed or left out: the logits of transformers, or a refusal, never silence."""

import copy
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.interop import FAMILIES, load_hf
from jaxpt.interop.inert import INERT
from jaxpt.models import forward
from tests.interop.foreign import logits, redrawn
from tests.models.tiny import some_slow

missing = [n for n in ("torch", "transformers") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}: install jaxpt[parity]"),
]

SIZES = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
KINDS = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "qwen3": {"head_dim": 4},
    "olmo2": {},
    "gemma2": {"head_dim": 4, "sliding_window": 5, "query_pre_attn_scalar": 9},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**EXPERTS, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 10},
    "qwen3_moe": {**EXPERTS, "moe_intermediate_size": 12, "head_dim": 4},
    "olmoe": EXPERTS,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 3.0, "original_max_position_embeddings": 8}
# Values tried beside those that follow from the type of the one that stands there.
TRIED = {
    "attention_bias": [True],
    "attn_logit_softcapping": [1.0, 0],
    "attention_chunk_size": [4],
    "clip_qkv": [0.1],
    "decoder_sparse_step": [0, 2],
    "final_logit_softcapping": [1.0, 0],
    "head_dim": [5, 6],
    "hidden_act": ["gelu", "relu", "swish", "gelu_new", "gelu_fast"],
    "hidden_activation": ["gelu", "relu", "gelu_new"],
    "is_causal": [False],
    "layer_types": [["sliding_attention"] * 2, ["full_attention", "sliding_attention"], ["full_attention"] * 3, "full"],
    "max_window_layers": [0, 1],
    "mlp_bias": [True],
    "mlp_only_layers": [[0], "x"],
    "norm_topk_prob": [True],
    "num_attention_heads": [0, 3, 12],
    "num_experts": [3, 5, 0],
    "num_experts_per_tok": [1, 0],
    "num_hidden_layers": [0, 1, -1],
    "num_key_value_heads": [1, 4, 6],
    "num_local_experts": [3, 5],
    "original_max_position_embeddings": [8],
    "partial_rotary_factor": [0.5, 0],
    "per_layer_config": [[{}]],
    "qkv_bias": [False],
    "query_pre_attn_scalar": [64, 0],
    "quantization_config": [{"quant_method": "x"}],
    "rms_norm_eps": [0.01, 0],
    "rope_parameters": [
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 3},
        {"rope_type": "llama3", "rope_theta": 1e4, "factor": 3.0},
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        {"rope_type": "longrope", "rope_theta": 1e4},
        {"rope_theta": 1e5},
        {"type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 3.0},
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1},
        {**YARN, "mscale": 0.7},
        {**YARN, "truncate": None},
        {**YARN, "beta_fast": 0},
        {**YARN, "factor": None},
        {},
    ],
    "rope_scaling": [{"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}, {}],
    "rope_theta": [5e5, 0],
    "sliding_window": [3, 0, -1],
    "tie_word_embeddings": [True],
    "use_bidirectional_attention": [True],
    "use_sliding_window": [True],
}
TOKENS = np.random.default_rng(0).integers(0, 31, (1, 24))


@pytest.mark.parametrize("kind", some_slow(FAMILIES))
def test_a_changed_key_is_followed_or_refused(kind, tmp_path, monkeypatch):
    model = small(kind)
    model.save_pretrained(tmp_path)
    base = json.loads((tmp_path / "config.json").read_text())
    made, followed, silent = {}, 0, []
    for key, message, values in variants(base, model.config.to_dict()):
        (tmp_path / "config.json").write_text(json.dumps(values))
        try:
            ours = load_hf(tmp_path)
        except JaxptError as error:
            if "\n" in str(error) or not any(name in str(error) for name in (key, "model.", "lm_head", "rope ")):
                silent.append(f"{message}: {error}")  # it names neither the key nor a tensor
            continue
        try:
            want = foreign_logits(tmp_path, model.state_dict())
        except Exception:  # transformers refuses it in its own way, or crashes: there is nothing to compare with
            assert key, message
            continue
        if (config := repr(ours.config)) not in made:
            with jax.disable_jit():  # operation by operation: the shapes are the same every time
                made[config] = np.asarray(forward(ours.config, ours.params, jnp.array(TOKENS)))
        followed += 1
        if not np.abs(made[config] - want).max() <= 2e-4 * np.abs(want).max():
            silent.append(message)
    assert not silent
    assert followed > 12
    assert len(made) > 5


def small(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = AutoConfig.for_model(kind, **SIZES, rope_parameters=rope, **KINDS[kind])
    return redrawn(AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval(), deviation=0.4)


def variants(base, whole):
    """(key, what was done, config) for every key that the file has or could have."""
    from transformers import GenerationConfig

    yield "", "nothing", base
    kept = {"dtype", "torch_dtype", "_attn_implementation", "attn_implementation", "output_attentions"}
    kept |= {"ignore_keys_at_rope_validation"}  # what transformers sets itself, as sets and names
    kept |= vars(GenerationConfig()).keys()  # what it checks for itself
    kept |= {"auto_map"}  # which it reads as names of code
    yield "", "inert keys", {**base, **dict.fromkeys(INERT.keys() - base.keys() - whole.keys() - kept, 7)}
    for key in sorted((base.keys() | whole.keys() | TRIED.keys()) - INERT.keys()):
        for value in [*TRIED.get(key, []), *others(base.get(key, whole.get(key)))]:
            if value != base.get(key):
                yield key, f"{key}={value!r}", {**copy.deepcopy(base), key: value}
        if key in base:
            yield key, f"{key} left out", {k: v for k, v in copy.deepcopy(base).items() if k != key}


def others(value):
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int | float):
        return [value + 1, None, "x"]
    return [None, 3]


def foreign_logits(folder, state):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.load_state_dict(state)  # refuses other names and shapes
    return logits(model.eval(), TOKENS)
