"""What an implementation of attention is asked for: the facts by which it says whether it applies."""

from dataclasses import dataclass

import jax

from jaxpt.kernels.machine import INSTALLED, Versions, version_in
from jaxpt.sharding.platform import device_kind, platform


@dataclass(frozen=True)
class Logits:
    """How logits come from dot products and which of them count; static under `jit`.

    Dot products are multiplied by `scale`; with a `softcap` a logit x becomes `softcap * tanh(x / softcap)`; a query
    sees `window` keys at most, its own included. `precision` is that of the matrix products.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    precision: jax.lax.Precision | None = None


@dataclass(frozen=True)
class Call:
    """One call of attention, without its arrays; q is `[batch, queries, heads, head_dim]`, k and v have `kv_heads`.

    `segments`: rows hold several documents. `device_kind` is the device's own name ("NVIDIA H100 80GB HBM3"), "" where
    it is not known. `versions` are those of the libraries that kernels come from; those not installed are left out.
    """

    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    segments: bool = False
    window: int | None = None
    softcap: float | None = None
    platform: str = "cpu"
    device_kind: str = ""
    versions: Versions = ()

    def version(self, library: str) -> tuple[int, ...] | None:
        """Returns the version of a library as numbers, None where it is not installed."""
        return version_in(self.versions, library)


def call_of(
    q: jax.Array | jax.ShapeDtypeStruct,
    k: jax.Array | jax.ShapeDtypeStruct,
    logits: Logits,
    *,
    segments: bool = False,
) -> Call:
    """Returns the call with queries `q [B, S, H, h]` and keys `k [B, T, K, h]` on the devices of the mesh in force."""
    b, s, h, hd = q.shape
    return Call(
        b,
        s,
        k.shape[1],
        h,
        k.shape[2],
        hd,
        str(q.dtype),
        segments=segments,
        window=logits.window,
        softcap=logits.softcap,
        platform=platform(),
        device_kind=device_kind(),
        versions=INSTALLED,
    )
