"""How a list of layers is run: the shortest repeating period as one scan, or runs of equal layers."""

from collections.abc import Collection
from dataclasses import dataclass

import jax

from jaxpt.models.config import LayerSpec, ModelConfig
from jaxpt.models.params import Params


@dataclass(frozen=True)
class Span:
    """`repeats` times the layers `period`, from global layer `first`.

    `slots[i]` is (structure, position within the period) of layer i: where its parameters are in their stack.
    `starts` says, per structure, at which entry of its stack the span begins.
    """

    period: tuple[LayerSpec, ...]
    repeats: int
    first: int
    slots: tuple[tuple[str, int], ...]
    starts: tuple[tuple[str, int], ...]

    @property
    def structures(self) -> tuple[str, ...]:
        """Parameter structures the span uses."""
        return tuple(s for s, _ in self.starts)

    def take(self, stacks: Params) -> Params:
        """Returns each structure's leaves as `[repeats, layers of it in a period, ...]`."""
        out = {}
        for structure, start in self.starts:
            per = sum(s == structure for s, _ in self.slots)
            stop = start + per * self.repeats

            def cut(a: jax.Array, start: int = start, stop: int = stop, per: int = per) -> jax.Array:
                a = a if (start, stop) == (0, a.shape[0]) else a[start:stop]
                return a.reshape(self.repeats, per, *a.shape[1:])

            out[structure] = jax.tree.map(cut, stacks[structure])
        return out


def spans(config: ModelConfig) -> list[Span]:
    """Returns the scans that run `config.layers` in order."""
    layers = config.layers
    period = next(
        p for p in range(1, len(layers) + 1) if len(layers) % p == 0 and layers == layers[:p] * (len(layers) // p)
    )
    if period <= max(1, len(layers) // 2):
        return [_span(config, layers[:period], len(layers) // period, 0)]
    out, first = [], 0
    while first < len(layers):
        stop = first
        while stop < len(layers) and layers[stop] == layers[first]:
            stop += 1
        out.append(_span(config, layers[first : first + 1], stop - first, first))
        first = stop
    return out


def cut(config: ModelConfig, whole: list[Span], after: Collection[int]) -> list[Span]:
    """Returns the spans with an edge after each of the global layers `after`; without any, `whole` itself."""
    out = []
    for span in whole:
        n = len(span.period)
        last = span.first + n * span.repeats
        edges = sorted({l + 1 for l in after if span.first <= l < last - 1})
        at = span.first
        for edge in (*edges, last) if edges else ():
            out += _pieces(config, span, at, edge)
            at = edge
        out += [] if edges else [span]
    return out


def _pieces(config: ModelConfig, span: Span, first: int, stop: int) -> list[Span]:
    """The layers [first, stop) of a span: what is left of a period, whole periods, the beginning of one."""
    n, out = len(span.period), []
    while first < stop:
        into = (first - span.first) % n
        if into or stop - first < n:
            size, repeats = min(n - into, stop - first), 1
        else:
            size, repeats = n, (stop - first) // n
        out.append(_span(config, config.layers[first : first + size], repeats, first))
        first += size * repeats
    return out


def _span(config: ModelConfig, period: tuple[LayerSpec, ...], repeats: int, first: int) -> Span:
    count: dict[str, int] = {}
    slots = []
    for layer in period:
        slots.append((layer.ffn, count.setdefault(layer.ffn, 0)))
        count[layer.ffn] += 1
    starts = tuple((s, sum(layer.ffn == s for layer in config.layers[:first])) for s in count)
    return Span(period, repeats, first, tuple(slots), starts)
