"""Which calls of attention a model makes: what kernels are chosen by, and compared at, before anything is compiled."""

from collections.abc import Sequence

import jax

from jaxpt.kernels.attention import Call, Logits, call_of, choose
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig


def attention_calls(
    config: ModelConfig, compute: Compute, rows: int, length: int, *, segments: bool = True
) -> dict[tuple[Call, Logits], list[int]]:
    """Returns the numbers of the layers that make each different call, on the devices of the mesh in force.

    Args:
        config: the model.
        compute: dtype and precision of attention.
        rows: of a microbatch.
        length: tokens of a row.
        segments: whether rows hold several documents, as batches of packed sources do.
    """
    out: dict[tuple[Call, Logits], list[int]] = {}
    shape = lambda heads: jax.ShapeDtypeStruct((rows, length, heads, config.head_dim), compute.jnp_dtype)  # noqa: E731
    for number, layer in enumerate(config.layers):
        logits = Logits(config.scale, layer.window, config.attention_softcap, compute.precision)
        call = call_of(shape(config.heads), shape(config.kv_heads), logits, segments=segments)
        out.setdefault((call, logits), []).append(number)
    return out


def describe_choice(call: Call, layers: Sequence[int], names: Sequence[str] = ()) -> str:
    """Returns a line: which layers, their shape, what computes them, and why each kernel before it does not."""
    chosen = choose(call, names)
    window = "" if call.window is None else f", window {call.window:,}"
    shape = f"{call.heads}/{call.kv_heads} heads of {call.head_dim}, rows of {call.keys:,}, {call.dtype}{window}"
    refused = "".join(f"; not {name}: {reason}" for name, reason in chosen.refused)
    return f"attention of {_named(layers)} ({shape}): {chosen.name}{refused}"


def _named(layers: Sequence[int]) -> str:
    """Returns "layers 0–3, 6"."""
    runs: list[list[int]] = []
    for n in layers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(parts)}"
