"""Attention as jaxpt has it, by implementation, and the libraries' own calls beside it, all of one signature."""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Call = Callable[..., jax.Array]  # (q [B,S,H,h], k, v [B,S,K,h], segment_ids [B,S] or None, window or None)


def ours() -> dict[str, Call]:
    """Returns jaxpt's implementations by name."""
    from jaxpt.kernels import attention as room

    names = [name for name in room.IMPLEMENTATIONS if name != "splash"]
    return {name: functools.partial(_ours, name) for name in names}


def _ours(
    name: str, q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int | None
) -> jax.Array:
    from jaxpt.kernels.attention import attention

    scale = q.shape[-1] ** -0.5
    return attention(q, k, v, scale=scale, segment_ids=segment_ids, window=window, implementation=name)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int | None) -> jax.Array:
    """cuDNN through JAX: without documents its public call, with documents the private one by offsets."""
    if segment_ids is None:
        left = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=left, implementation="cudnn")
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    lengths, offsets = _offsets(segment_ids)
    out = dot_product_attention(
        q, k, v, None, None, lengths, lengths, offsets, offsets,
        scale=q.shape[-1] ** -0.5, mask_type=MaskType.PADDING_CAUSAL, sliding_window_length=window,
    )  # fmt: skip
    return out[0] if isinstance(out, tuple | list) else out


def _offsets(segment_ids: jax.Array, most: int = 16) -> tuple[jax.Array, jax.Array]:
    """Lengths `[B, most]` and first tokens `[B, most + 1]` of the documents of each row, -1 past the last.

    cuDNN's backward pass takes the longer the more documents it is compiled for; a row of more would be wrong.
    """
    s = segment_ids.shape[1]
    begins = jnp.concatenate(
        [jnp.ones_like(segment_ids[:, :1], bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1
    )
    starts = jax.vmap(lambda b: jnp.nonzero(b, size=most + 1, fill_value=s)[0])(begins).astype(jnp.int32)
    lengths = starts[:, 1:] - starts[:, :-1]
    return jnp.where(starts[:, :-1] < s, lengths, -1), jnp.where(starts < s, starts, -1)


def mosaic(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, window: int | None) -> jax.Array:
    """tokamax's Mosaic kernel for Hopper, documents and windows by the first key that each query sees."""
    load_tokamax()
    from tokamax._src.ops.attention import api, base

    index = jnp.arange(q.shape[1], dtype=jnp.int32)[None]
    first = None
    if segment_ids is not None:
        begins = jnp.concatenate(
            [jnp.ones_like(segment_ids[:, :1], bool), segment_ids[:, 1:] != segment_ids[:, :-1]], axis=1
        )
        first = jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    if window is not None:
        first = jnp.maximum(0 if first is None else first, index - window + 1)
    mask = base.Mask(is_causal=True, k_start=None if first is None else first[:, None])
    return api.IMPLEMENTATIONS["mosaic_gpu"](q, k, v, mask=mask, logits_scale=q.shape[-1] ** -0.5)


def load_tokamax() -> Any:
    """Imports tokamax, also where xprof is missing, which only its own benchmarks read."""
    try:
        import xprof  # noqa: F401
    except ImportError:
        for name in ("xprof", "xprof.cli", "xprof.cli.tools"):
            sys.modules.setdefault(name, types.ModuleType(name))
        sys.modules["xprof.cli.tools"].get_kernel_stats_tool = None  # type: ignore[attr-defined]
    import tokamax

    return tokamax


LIBRARIES: dict[str, Call] = {"jax cudnn": cudnn, "tokamax mosaic": mosaic}


class _Registered:
    """A library's call as an implementation of jaxpt, under both forms that the room has had."""

    def __init__(self, call: Call, whole_rows: bool) -> None:
        self.call, self.whole_rows = call, whole_rows

    def refuses(self, call: Any) -> None:
        """It is asked for by name."""

    def run(self, q: Any, k: Any, v: Any, logits: Any, segment_ids: Any) -> jax.Array:
        """Attention."""
        return self.call(q, k, v, None if self.whole_rows else segment_ids, logits.window)

    def __call__(self, q: Any, k: Any, v: Any, scale: Any, ids: Any, window: Any, *rest: Any) -> jax.Array:
        return self.call(q, k, v, None if self.whole_rows else ids, window)


def register() -> None:
    """Lets the train step use the libraries' calls by name, with and without documents."""
    from jaxpt.kernels import attention as room

    for name, call in LIBRARIES.items():
        for whole in (False, True):
            room.IMPLEMENTATIONS[f"{name}{' whole' if whole else ''}"] = _Registered(call, whole)  # type: ignore
