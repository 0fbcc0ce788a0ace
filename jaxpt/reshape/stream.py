"""A model read slice by slice: in memory, from a bundle, or made by a rewrite while it is read.

`Reshaped(source, rewrite)` is itself such a model, so rewrites chain without anything in between being stored; `write`
copies a model into a bundle one slice at a time. A `Bundle` satisfies `ModelSlices` as it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from jaxpt.models import ModelConfig, flatten, param_specs, unflatten
from jaxpt.models.params import Params
from jaxpt.reshape.apply import build_slice
from jaxpt.reshape.ops import Array
from jaxpt.reshape.rewrite import Rewrite


class ModelSlices(Protocol):
    """Anything that gives a model's parameters slice by slice."""

    @property
    def config(self) -> ModelConfig:
        """Its config."""
        ...

    def read(self, path: str, layer: int | None = None) -> Array:
        """Returns one slice of parameter `path` (`layer`: place in its stack), or the whole of one without layers."""
        ...


class InMemory:
    """A model in memory as a `ModelSlices`; slices of device arrays stay on the devices."""

    def __init__(self, config: ModelConfig, params: Params) -> None:
        """Wraps `params`, a nested dict as `param_specs(config)` declares it."""
        self.config = config
        self.leaves: Mapping[str, Array] = flatten(params)

    def read(self, path: str, layer: int | None = None) -> Array:
        """Returns a slice, see `ModelSlices`."""
        return self.leaves[path] if layer is None else self.leaves[path][layer]


class Reshaped:
    """What `rewrite` makes of `source`, computed slice by slice on the host as it is read."""

    def __init__(self, source: ModelSlices, rewrite: Rewrite) -> None:
        """Wraps `source`, whose config must be the rewrite's."""
        if source.config != rewrite.source:
            raise ValueError("the rewrite was made for another config")
        self.source, self.rewrite, self.config, self.specs = source, rewrite, rewrite.target, rewrite.specs

    def read(self, path: str, layer: int | None = None) -> np.ndarray:
        """Returns a slice, see `ModelSlices`; reads just the input slices it is made of."""
        rule = self.rewrite.rules[path]
        slices: list[np.ndarray | None] = []
        for t in rule:
            if t.source is None:
                slices.append(None)
            else:
                at = None if t.layers is None or layer is None else int(t.layers[layer])
                slices.append(np.asarray(self.source.read(t.source, at)))
        dtype = next((s.dtype for s in slices if s is not None), np.dtype(np.float32))
        return build_slice(path, self.specs[path], rule, slices, layer, dtype)


def chain(source: ModelSlices, rewrites: Sequence[Rewrite]) -> ModelSlices:
    """Returns the source that results from the rewrites one after the other."""
    for rewrite in rewrites:
        source = Reshaped(source, rewrite)
    return source


def slices(config: ModelConfig) -> Iterator[tuple[str, int | None, tuple[int, ...]]]:
    """Yields (path, layer or None, shape) of every slice of a model."""
    for path, spec in flatten(param_specs(config)).items():
        if spec.stacked:
            yield from ((path, layer, spec.shape[1:]) for layer in range(spec.shape[0]))
        else:
            yield path, None, spec.shape


def write(
    source: ModelSlices,
    put: Callable[[str, int | None, np.ndarray], object],
    on_bytes: Callable[[int], object] = lambda nbytes: None,
) -> None:
    """Hands every slice of `source` to `put(path, layer, array)`; `on_bytes(nbytes)` is called after each."""
    for path, layer, _ in slices(source.config):
        array = np.asarray(source.read(path, layer))
        put(path, layer, array)
        on_bytes(array.nbytes)


def gather(source: ModelSlices) -> Params:
    """Returns all parameters of a source as host arrays in a nested dict."""
    out: dict[str, np.ndarray] = {}
    for path, spec in flatten(param_specs(source.config)).items():
        if spec.stacked:
            out[path] = np.stack([np.asarray(source.read(path, l)) for l in range(spec.shape[0])])
        else:
            out[path] = np.asarray(source.read(path))
    return unflatten(out)
