"""Attention by an implementation that applies: by name, or the first of a preference list that does not refuse."""

from collections.abc import Sequence
from typing import Protocol

import jax

from jaxpt.kernels.attention import blocked, cudnn, mosaic, skipping, splash, xla
from jaxpt.kernels.attention.call import Call, Logits, call_of
from jaxpt.kernels.choice import Chosen, Preferred, first_that_applies, parse_names


class AttentionKernel(Protocol):
    """An implementation; each is a module of this folder."""

    def refuses(self, call: Call) -> str | None:
        """Returns why this kernel does not apply to `call`, None where it does."""

    def run(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        logits: Logits,
        segment_ids: jax.Array | None,
    ) -> jax.Array:
        """Returns attention as `attention` defines it, `[B, S, H, h]`."""


IMPLEMENTATIONS: dict[str, AttentionKernel] = {
    "xla": xla,
    "blocked": blocked,
    "splash": splash,
    "cudnn": cudnn,
    "mosaic": mosaic,
    "skipping": skipping,
}


PREFERENCES: dict[str, tuple[Preferred, ...]] = {
    "tpu": (Preferred("splash"), Preferred("xla")),
    "gpu": (Preferred("cudnn"), Preferred("mosaic"), Preferred("blocked", least=1024), Preferred("xla")),
    "cpu": (Preferred("blocked", least=256), Preferred("xla")),
}


def parse_preference(value: str, where: str = "attention") -> tuple[str, ...]:
    """Returns the names in `value`, one or several separated by commas; () for "auto", each platform's own list.

    Raises:
        JaxptError: an unknown name.
    """
    return parse_names(value, list(IMPLEMENTATIONS), where)


def choose(call: Call, names: Sequence[str] = ()) -> Chosen:
    """Returns the first implementation of `names` (empty: of the platform's preference) that takes `call`.

    Raises:
        JaxptError: each refuses, with the reasons.
    """
    order = [Preferred(name) for name in names] or PREFERENCES.get(call.platform, (Preferred("xla"),))
    asked = f"attention={','.join(names)}"
    return first_that_applies(IMPLEMENTATIONS, order, call, call.keys, asked, "xla")


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    segment_ids: jax.Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    implementation: str = "auto",
    precision: jax.lax.Precision | None = None,
) -> jax.Array:
    """Returns `softmax(mask(scale * q k^T)) v`, `[B, S, H, h]` in q's dtype; the softmax is float32.

    A query sees keys at its own index and before it, of its own segment, and within `window`.

    Args:
        q: `[B, S, H, h]`.
        k: `[B, T, K, h]`, H a multiple of K; query head n uses kv head `n // (H / K)`.
        v: `[B, T, K, h]`.
        scale: multiplies the dot products.
        segment_ids: `[B, S]` int (T = S), or None.
        window: how many keys a query sees at most, its own included.
        softcap: `softcap * tanh(logits / softcap)` before the mask, or None.
        implementation: a name from `IMPLEMENTATIONS`, several separated by commas (the first that applies), or "auto":
            the list of the platform in `PREFERENCES`.
        precision: of the two matrix products.

    Raises:
        JaxptError: what was asked for by name does not apply, with the reason.
    """
    logits = Logits(scale, window, softcap, precision)
    call = call_of(q, k, logits, segments=segment_ids is not None)
    chosen = choose(call, parse_preference(implementation))
    kernel = IMPLEMENTATIONS[chosen.name]
    return kernel.run(q, k, v, logits, segment_ids)
