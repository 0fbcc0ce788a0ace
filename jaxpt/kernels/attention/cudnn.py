"""NVIDIA GPUs: cuDNN's fused attention, through JAX.

Rows of one document through `jax.nn.dot_product_attention`; packed rows by the offsets of their documents, which only
JAX's private module takes, one pass at a time. The time and memory of cuDNN's backward pass grow with the number of
documents that it is compiled for (H100, rows of 4,096, forward and backward: 1.4 ms at 16, 2.5 ms at 64, 7 ms at 256,
and 258 GiB asked for at 1,024), so it is compiled for `DOCUMENTS`; a batch with a row of more takes another kernel,
decided on the device.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention import blocked, mosaic
from jaxpt.kernels.attention.call import Call, Logits, call_of
from jaxpt.kernels.attention.documents import counts, of_documents, of_rows, offsets
from jaxpt.kernels.attention.passes import Gradients, Passes, attend, either
from jaxpt.kernels.attention.sharded import per_shard
from jaxpt.kernels.machine import architecture

DOCUMENTS = 16  # of a row at most; see above
BACKWARD = "_dot_product_attention_bwd_p_wrapper"  # of JAX's private module
PACKED_SINCE = (0, 11, 2)  # before, offsets of keys used the queries' stride: silently wrong with fewer kv heads


def refuses(call: Call) -> str | None:
    """Returns why cuDNN does not take `call`."""
    if call.platform != "gpu":
        return "it is for NVIDIA GPUs"
    if call.softcap is not None:
        return "it has no softcap"
    if call.dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, not {call.dtype}"
    arch = architecture(call.device_kind) or 0
    most = 256 if arch >= 90 else 128
    if call.head_dim % 8 or call.head_dim > most:
        return f"head_dim {call.head_dim} is not a multiple of 8 up to {most}"
    if not call.segments:
        return _missing()
    if arch < 90:
        return f"packed documents need Hopper or newer, this is {call.device_kind or 'unknown'}"
    version = call.version("jax")
    if version is None or version < PACKED_SINCE:
        found = ".".join(map(str, version or ("?",)))
        return f"packed documents need JAX {'.'.join(map(str, PACKED_SINCE))} (with JAX {found} they can be wrong)"
    if (reason := _missing()) is not None:
        return reason
    lost = f"this JAX has no {BACKWARD}, which packed documents need"
    return None if hasattr(_packed_module(), BACKWARD) else lost


@functools.cache
def _missing() -> str | None:
    try:
        _packed_module().check_cudnn_version()
    except ImportError as e:
        return f"this JAX has no module for it ({e})"
    except RuntimeError as e:
        return str(e)
    return None


def _packed_module() -> Any:
    from jax._src.cudnn import fused_attention_stablehlo

    return fused_attention_stablehlo


def run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    logits: Logits,
    segment_ids: jax.Array | None,
) -> jax.Array:
    """Returns attention as `jaxpt.kernels.attention.dispatch.attention` defines it."""
    return per_shard(functools.partial(_local, logits=logits), q, k, v, segment_ids)


def _local(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits) -> jax.Array:
    if segment_ids is None:
        left = None if logits.window is None else (logits.window - 1, 0)
        return jax.nn.dot_product_attention(
            q, k, v, scale=logits.scale, is_causal=True, local_window_size=left, implementation="cudnn"
        )
    beyond = mosaic if mosaic.refuses(call_of(q, k, logits, segments=True)) is None else blocked
    return attend(q, k, v, segment_ids, logits, either(_few_documents, PACKED, beyond.PASSES))


def _few_documents(segment_ids: jax.Array) -> jax.Array:
    return counts(segment_ids).max() <= DOCUMENTS


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array | None, *, logits: Logits
) -> tuple[jax.Array, jax.Array]:
    """The forward pass of rows of `DOCUMENTS` at most, see `jaxpt.kernels.attention.passes.Forward`."""
    assert segment_ids is not None
    cudnn = _packed_module()
    at, lengths = offsets(segment_ids, DOCUMENTS)
    out, statistics = cudnn.dot_product_attention(
        q,
        k,
        v,
        scale=logits.scale,
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
        qkv_layout="BTNH",
        sliding_window_length=logits.window,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=at,
        kv_offsets=at,
        return_residual=True,
    )
    return out, of_rows(statistics, segment_ids)


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    out: jax.Array,
    log_sum: jax.Array,
    d_out: jax.Array,
    *,
    logits: Logits,
) -> Gradients:
    """The backward pass of rows of `DOCUMENTS` at most, see `jaxpt.kernels.attention.passes.Backward`."""
    assert segment_ids is not None
    cudnn = _packed_module()
    at, lengths = offsets(segment_ids, DOCUMENTS)
    none = jnp.zeros(0, q.dtype)  # its bias, and its tables of pages
    added = {"score_mod": None} if "score_mod" in inspect.signature(cudnn.dot_product_attention).parameters else {}
    dq, dk, dv = getattr(cudnn, BACKWARD).bind(
        *(q, k, v, none, lengths, lengths, at, at, none, none),
        *(of_documents(log_sum, segment_ids, DOCUMENTS), out, d_out),
        scale=logits.scale,
        seed=42,
        dropout_rate=0.0,
        variadic_args=(False, False),  # no bias, none whose gradient is wanted
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
        layout=cudnn.AttentionLayout.BTNH.value,
        sliding_window_length=logits.window,
        **added,  # since JAX 0.12
    )
    return dq, dk, dv


PACKED = Passes(forward, backward)
