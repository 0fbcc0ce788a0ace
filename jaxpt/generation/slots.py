"""The program that continues several prompts at once, each in a slot of a cache that is updated in place."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxpt.generation.attend import Stored, attend, heads_first
from jaxpt.generation.sampling import NO_ID, Biases, Samplings, draw
from jaxpt.generation.weights import LaidOutWeights
from jaxpt.kernels.attention.call import Logits
from jaxpt.models.block import Block, Context, LayerCache
from jaxpt.models.compute import Compute
from jaxpt.models.config import LayerSpec, ModelConfig
from jaxpt.models.decoder import rope_tables
from jaxpt.models.layer import finish, first_stream
from jaxpt.models.params import Params
from jaxpt.sharding.activations import constrain

NO_TOKEN = -1


class Slots(NamedTuple):
    """The state of B slots: each layer's keys and values `[B, K, T, h]`, and of each slot its last token (drawn, not
    yet in the cache) and that token's position `[B]` int32, how many more tokens it wants `[B]` (0: it rests), the
    data of its random key `[B, 2]` uint32, its sampling, the ids that end it `[B, N]`, filled up with -1, what is added
    to its logits, and whether it wants log-probabilities `[B]`."""

    cache: tuple[Stored, ...]
    token: jax.Array
    position: jax.Array
    left: jax.Array
    key: jax.Array
    sampling: Samplings
    ends: jax.Array
    biases: Biases
    wants: jax.Array


class Drawn(NamedTuple):
    """Tokens `[…, B]` int32 (`NO_TOKEN` where a slot rests), their log-probabilities, and ids and log-probabilities of
    the likeliest `[…, B, top]`."""

    tokens: jax.Array
    logprobs: jax.Array
    top_ids: jax.Array
    top_logprobs: jax.Array


def empty_slots(config: ModelConfig, compute: Compute, slots: int, room: int, ends: int, biases: int = 0) -> Slots:
    """Returns `slots` slots at rest, with room for `room` tokens, `ends` end ids and `biases` biases each."""
    shape = (slots, config.kv_heads, room, config.head_dim)
    cache = tuple(
        Stored(jnp.zeros(shape, compute.jnp_dtype), jnp.zeros(shape, compute.jnp_dtype)) for _ in config.layers
    )
    zeros = lambda: jnp.zeros(slots, jnp.int32)  # noqa: E731
    sampling = Samplings(jnp.zeros(slots, jnp.float32), zeros(), jnp.ones(slots, jnp.float32))
    key = jnp.zeros((slots, 2), jnp.uint32)
    ended = jnp.full((slots, ends), NO_TOKEN, jnp.int32)
    added = Biases(jnp.full((slots, biases), NO_ID, jnp.int32), jnp.zeros((slots, biases), jnp.float32))
    return Slots(cache, zeros(), zeros(), zeros(), key, sampling, ended, added, jnp.zeros(slots, bool))


class Entrant(NamedTuple):
    """What a slot begins with: the prompt's length, the number of wanted tokens, key data, sampling, end ids, biases,
    and whether log-probabilities are wanted."""

    length: jax.Array
    wanted: jax.Array
    key: jax.Array
    sampling: Samplings
    ends: jax.Array
    biases: Biases
    wants: jax.Array


@functools.partial(jax.jit, donate_argnums=0)
def store(slots: Slots, slot: jax.Array, stored: tuple[Stored, ...], at: jax.Array) -> Slots:
    """Writes keys and values `[1, K, S, h]` or `[K, S, h]` of each layer into a slot, from position `at` on."""

    def one(old: jax.Array, new: jax.Array) -> jax.Array:
        new = new if new.ndim == 4 else new[None]
        return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (slot, 0, at, 0))

    return slots._replace(cache=jax.tree.map(one, slots.cache, stored))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def first(
    config: ModelConfig, compute: Compute, top: int | None, outer: Params, x: jax.Array, last: jax.Array, new: Entrant
) -> Drawn:
    """Draws a continuation's first token from the stream `x [1, S, D]` at `last`; returns it as a row of one."""
    logits = finish(config, outer, jax.lax.dynamic_slice_in_dim(x[0], last, 1), compute)
    one = jax.tree.map(lambda a: a[None], new)
    token = draw(logits, one.length, jax.random.wrap_key_data(one.key), one.sampling, one.biases)
    return _drawn(logits, token, token >= 0, one.wants, top)


@functools.partial(jax.jit, donate_argnums=0)
def enter(slots: Slots, slot: jax.Array, token: jax.Array, new: Entrant) -> Slots:
    """Sets a slot going behind its first token, `[1]`."""
    left = jnp.where(jnp.any(new.ends == token), 0, new.wanted - 1)
    put = lambda old, value: old.at[slot].set(value)  # noqa: E731
    return slots._replace(
        token=put(slots.token, token[0]),
        position=put(slots.position, new.length),
        left=put(slots.left, left),
        key=put(slots.key, new.key),
        sampling=jax.tree.map(put, slots.sampling, new.sampling),
        ends=put(slots.ends, new.ends),
        biases=jax.tree.map(put, slots.biases, new.biases),
        wants=put(slots.wants, new.wants),
    )


@functools.partial(jax.jit, donate_argnums=0)
def rest(slots: Slots, slot: jax.Array) -> Slots:
    """Stops a slot."""
    return slots._replace(left=slots.left.at[slot].set(0))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def advance(
    config: ModelConfig,
    compute: Compute,
    chunk: int,
    top: int | None,
    weights: LaidOutWeights,
    slots: Slots,
    n: jax.Array,
) -> tuple[Slots, Drawn]:
    """Draws up to `n` (at most `chunk`) tokens in each slot that is going, in one program; fewer when all rest.

    Returns the slots and what was drawn, `[chunk, B]`. Donated, the cache is updated where it is.
    """
    b = slots.token.shape[0]
    shape = (chunk, b, top or 0)
    out = Drawn(
        jnp.full((chunk, b), NO_TOKEN, jnp.int32),
        jnp.zeros((chunk, b), jnp.float32),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, jnp.float32),
    )

    def goes_on(state: tuple[jax.Array, Slots, Drawn]) -> jax.Array:
        return (state[0] < n) & jnp.any(state[1].left > 0)

    def body(state: tuple[jax.Array, Slots, Drawn]) -> tuple[jax.Array, Slots, Drawn]:
        i, slots, out = state
        slots, drawn = _step(config, compute, top, weights, slots)
        out = jax.tree.map(lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, i, 0), out, drawn)
        return i + 1, slots, out

    _, slots, out = jax.lax.while_loop(goes_on, body, (jnp.zeros((), jnp.int32), slots, out))
    return slots, jax.tree.map(lambda a: constrain(a, *[None] * a.ndim), out)


def _step(
    config: ModelConfig, compute: Compute, top: int | None, weights: LaidOutWeights, slots: Slots
) -> tuple[Slots, Drawn]:
    positions = slots.position[:, None]
    going = slots.left > 0
    x = first_stream(config, weights.outer, slots.token[:, None], compute)
    room = slots.cache[0].keys.shape[2]
    of = Logits(config.scale, None, config.attention_softcap, compute.precision)
    rows = jnp.arange(slots.token.shape[0])

    def cached(
        q: jax.Array, k: jax.Array, v: jax.Array, layer: LayerSpec, old: LayerCache | None
    ) -> tuple[jax.Array, Stored]:
        assert old is not None
        put = lambda a, new: a.at[rows, :, slots.position].set(heads_first(new)[:, :, 0].astype(a.dtype))  # noqa: E731
        kept = Stored(put(old.keys, k), put(old.values, v))
        at = jnp.arange(room)[None, None, :]
        seen = at <= positions[:, :, None]
        if layer.window is not None:
            seen &= at > positions[:, :, None] - layer.window
        return attend(q, [(kept, seen)], of), kept

    ctx = Context(rope_tables(config, positions), going[:, None].astype(jnp.int32), cached)
    cache: list[Stored] = []
    for layer, leaves, old in zip(config.layers, weights.layers, slots.cache):
        x, (kept, _) = Block(config, leaves)(x, layer, ctx, compute, old)
        assert kept is not None
        cache.append(kept)
    logits = finish(config, weights.outer, x[:, 0], compute)
    after = slots.position + 1
    token = draw(logits, after, jax.random.wrap_key_data(slots.key), slots.sampling, slots.biases)
    ended = jnp.any(slots.ends == token[:, None], axis=1)
    slots = slots._replace(
        cache=tuple(cache),
        token=jnp.where(going, token, slots.token),
        position=jnp.where(going, after, slots.position),
        left=jnp.where(going, jnp.where(ended, 0, slots.left - 1), 0),
    )
    return slots, _drawn(logits, token, going, slots.wants & going, top)


def _drawn(logits: jax.Array, token: jax.Array, real: jax.Array, wants: jax.Array, top: int | None) -> Drawn:
    b = token.shape[0]
    tokens = jnp.where(real, token, NO_TOKEN)
    if top is None:
        return Drawn(tokens, jnp.zeros(b), jnp.zeros((b, 0), jnp.int32), jnp.zeros((b, 0)))

    def found(logits: jax.Array) -> Drawn:
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        values, ids = jax.lax.top_k(log_probs, top)
        chosen = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        return Drawn(tokens, chosen, ids.astype(jnp.int32), values)

    def none(logits: jax.Array) -> Drawn:
        return Drawn(tokens, jnp.zeros(b), jnp.zeros((b, top), jnp.int32), jnp.zeros((b, top)))

    return jax.lax.cond(jnp.any(wants), found, none, logits)
