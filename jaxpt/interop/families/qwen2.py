"""Qwen 1.5, 2, 2.5: biases on q, k and v; a sliding window from some layer on, where it is switched on."""

from collections.abc import Callable

from jaxpt.interop.family import Family, SharedFacts
from jaxpt.interop.keys import Keys, layer_specs, read_window
from jaxpt.interop.mapping import LLAMA_LIKE
from jaxpt.models.config import LayerSpec, ModelConfig

ABSENT = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def read_windows(
    keys: Keys, facts: SharedFacts, slides: Callable[[int, int], bool] = lambda layer, first: layer >= first
) -> dict[str, tuple[LayerSpec, ...]]:
    """Returns `layers` as Qwen 2 and 3 describe them: `layer_types`, or windows from `max_window_layers` on.

    `slides(layer, max_window_layers)` is the family's rule for configs without `layer_types`.
    """
    window, first = read_window(keys), keys.whole("max_window_layers")
    window = window if keys.flag("use_sliding_window") else None
    sliding = "sliding_attention" if window is not None else "full_attention"
    kinds = [sliding if slides(i, first) else "full_attention" for i in range(len(facts["layers"]))]
    return {"layers": layer_specs(keys, kinds, window)}


def write_windows(config: ModelConfig) -> dict[str, object]:
    """Inverse of `read_windows`."""
    windows = {layer.window for layer in config.layers if layer.window is not None}
    kinds = ["full_attention" if layer.window is None else "sliding_attention" for layer in config.layers]
    first = kinds.index("sliding_attention") if windows else len(kinds)
    return {
        "use_sliding_window": bool(windows),
        "sliding_window": max(windows, default=None),
        "max_window_layers": first,
        "layer_types": kinds,
    }


FAMILY = Family("qwen2", "Qwen2ForCausalLM", LLAMA_LIKE, {"qkv_bias": True}, read_windows, write_windows, absent=ABSENT)
