"""What an implementation of attention is asked for: the facts by which it says whether it applies."""

import importlib.metadata
from dataclasses import dataclass

import jax

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

    `segments`: rows hold several documents. `decoding`: the index of a query among the keys is given. `device_kind` is
    the device's own name ("NVIDIA H100 80GB HBM3"), "" where it is not known. `versions` are those of the libraries
    that kernels come from; one that is not installed is left out.
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
    decoding: bool = False
    platform: str = "cpu"
    device_kind: str = ""
    versions: tuple[tuple[str, str], ...] = ()

    def version(self, library: str) -> tuple[int, ...] | None:
        """Returns the version of a library as numbers, None where it is not installed."""
        text = dict(self.versions).get(library)
        return None if text is None else numbers(text)


ARCHITECTURES = {  # by what an NVIDIA card calls itself: its compute capability, as 90 for 9.0
    "A100": 80,
    "A800": 80,
    "GH200": 90,
    "H100": 90,
    "H200": 90,
    "H800": 90,
    "H20": 90,
    "B100": 100,
    "B200": 100,
    "B300": 103,
}


def architecture(device_kind: str) -> int | None:
    """Returns the compute capability of an NVIDIA card, as 90 for 9.0; None for one that is not in `ARCHITECTURES`."""
    return next((found for name, found in ARCHITECTURES.items() if name in device_kind), None)


def numbers(version: str) -> tuple[int, ...]:
    """Returns (0, 11, 2) for "0.11.2"; what follows a part that is not a number is left out."""
    out = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        out.append(int(part))
    return tuple(out)


LIBRARIES = ("jax", "jaxlib", "libtpu", "tokamax", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12")  # where kernels come from


def installed() -> tuple[tuple[str, str], ...]:
    """Returns name and version of each of `LIBRARIES` that is installed."""
    out = []
    for name in LIBRARIES:
        try:
            out.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(out)


_INSTALLED = installed()  # versions do not change within a process


def call_of(
    q: jax.Array | jax.ShapeDtypeStruct,
    k: jax.Array | jax.ShapeDtypeStruct,
    logits: Logits,
    *,
    segments: bool = False,
    decoding: bool = False,
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
        decoding=decoding,
        platform=platform(),
        device_kind=device_kind(),
        versions=_INSTALLED,
    )
