"""Reading a bundle: config and lineage at once, parameters one slice at a time or straight onto a mesh."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from jaxpt.bundles import store
from jaxpt.bundles.digest import all_finite, digest, slice_digest
from jaxpt.errors import JaxptError, short
from jaxpt.files import digests as small_files
from jaxpt.files.absent import absent_model
from jaxpt.files.strangers import check_tree, parse_json
from jaxpt.models.config import ModelConfig
from jaxpt.models.model import Model
from jaxpt.models.params import Array, ArrayIndex, Params, Shardings
from jaxpt.models.specs import flatten, param_specs, unflatten
from jaxpt.tokenizers.interface import Tokenizer

WAY_OUT = "restore it from a copy, or write the bundle again"


class Bundle:
    """A bundle opened for reading. `config`, `lineage` and `dtypes` are read at once, parameters on demand."""

    def __init__(self, path: Path, facts: Mapping[str, Any], lineage: list[dict[str, Any]]):
        """Use `open_bundle`."""
        self.path, self.lineage = path, lineage
        self.config = ModelConfig.from_dict(facts["config"])
        self.dtypes: dict[str, str] = facts["dtypes"]
        self.digests: dict[str, list[str]] = facts["digests"]
        self.tokenizer_fingerprint: str | None = facts["tokenizer_fingerprint"]
        self.specs = flatten(param_specs(self.config))
        if not self.digests.keys() == self.dtypes.keys() == self.specs.keys():
            raise KeyError("its parameters are not those of its config")
        self._checked = "format" in facts
        self._open: dict[str, ts.TensorStore] = {}

    def tokenizer(self) -> Tokenizer | None:
        """Returns the bundle's tokenizer, None where it has none.

        Raises:
            JaxptError: it is damaged, or not the one the bundle was written with.
        """
        if self.tokenizer_fingerprint is None and not (self.path / "tokenizer").is_dir():
            return None
        from jaxpt import tokenizers
        from jaxpt.tokenizers.fingerprints import known_as

        tokenizer = tokenizers.load(self.path / "tokenizer")
        if not known_as(tokenizer, self.tokenizer_fingerprint):
            raise JaxptError(
                f"{self.path / 'tokenizer'} is not the tokenizer this bundle was written with; write it again"
            )
        return tokenizer

    def read(self, leaf: str, layer: int | None = None, index: ArrayIndex = ...) -> np.ndarray:
        """Returns a leaf, one layer of it, or the part of either that `index` (slices) cuts out, in its stored dtype.

        A chunk carries a checksum; whole layers are also compared with the digest taken when they were written.

        Raises:
            JaxptError: no such leaf, or damaged data.
        """
        value = self._part(leaf, layer, index)
        if index is ... and self.specs[leaf].stacked and layer is None:
            self._compare(leaf, [slice_digest(part) for part in value])
        elif index is ...:
            self._compare(leaf, [slice_digest(value)], layer)
        return value

    def _part(self, leaf: str, layer: int | None, index: ArrayIndex) -> np.ndarray:
        if leaf not in self.specs:
            raise JaxptError(f"{self.path}: {leaf} is not a parameter of this model")
        try:
            if leaf not in self._open:
                self._open[leaf] = self._array(leaf)
            array = self._open[leaf]
            value = store.read(array if layer is None else array[layer], index)
            if not all_finite(value):
                raise JaxptError(f"{self.path / 'params' / leaf} holds NaN or infinite numbers; {WAY_OUT}")
            return value
        except JaxptError:
            raise
        except (ValueError, OSError, NotImplementedError) as e:
            where, reason = self.path / "params" / leaf, " ".join(str(e).split())[:120]
            raise JaxptError(f"{where} is damaged or incomplete ({reason}); write it again") from e

    def _array(self, leaf: str) -> ts.TensorStore:
        if self._checked:
            small_files.read_file(self.path, store.metadata_file(leaf), WAY_OUT)
        array = store.open_array(self.path / "params" / leaf)
        have, want = (array.shape, array.dtype.name), (self.specs[leaf].shape, self.dtypes[leaf])
        if have != want:
            raise ValueError(f"it holds {have[1]} {have[0]}, the model's is {want[1]} {want[0]}")
        return array

    def _compare(self, leaf: str, digests: Sequence[str], layer: int | None = None) -> None:
        written = self.digests[leaf] if layer is None else self.digests[leaf][layer : layer + 1]
        for i, (have, want) in enumerate(itertools.zip_longest(digests, written), layer or 0):
            if have != want:
                raise JaxptError(
                    f"{self.path / 'params' / leaf}, layer {i}: its values are not what was written; write it again"
                )

    def params(self, dtype: str | None = None, shardings: Shardings | None = None) -> Params:
        """Returns all parameters.

        Args:
            dtype: cast every leaf; None keeps each leaf's own.
            shardings: tree of `NamedSharding`; each device's part is read by itself, so that no host holds a leaf that
                is split. None: host (numpy) arrays.
        """
        where = flatten(shardings) if shardings is not None else {}

        def one(leaf: str) -> Array:
            value: Array
            if leaf not in where:
                value = self.read(leaf)
            else:
                part = functools.partial(self._part, leaf, None)
                value = jax.make_array_from_callback(self.specs[leaf].shape, where[leaf], part)
                self._compare(leaf, digest(unflatten({leaf: value}))[leaf])
            return value if dtype is None else value.astype(dtype)

        return unflatten({leaf: one(leaf) for leaf in self.specs})

    def model(self, dtype: str | None = None, shardings: Shardings | None = None) -> Model:
        """Returns the whole model with tokenizer and lineage; arguments as `params`."""
        return Model(self.config, self.params(dtype, shardings), self.tokenizer(), tuple(self.lineage))

    def verify(self) -> None:
        """Compares every slice with the digest taken when it was written.

        Raises:
            JaxptError: one differs.
        """
        for leaf, spec in self.specs.items():
            for layer in range(spec.shape[0]) if spec.stacked else [None]:
                self.read(leaf, layer)


def open_bundle(path: str | Path) -> Bundle:
    """Opens a bundle.

    Raises:
        JaxptError: nothing there, not whole (no lineage.json), damaged, or of a later format.
    """
    path = Path(path)
    if not path.is_dir():
        raise JaxptError(f"bundle {path} {absent_model(path)}")
    for name in ("lineage.json", "model.json"):
        if not (path / name).is_file():
            raise JaxptError(f"{path} is not a bundle: it has no {name}")
    check_tree(path)
    facts = _json(path, "model.json", dict)
    if facts.get("format", 1) not in (1, small_files.MODEL_FORMAT):
        raise JaxptError(f"{path / 'model.json'}: format {facts['format']} is not read by this jaxpt; write it again")
    if "digests" not in facts:
        raise JaxptError(f"{path} is not a bundle: its model.json lists no parameters (a run directory?)")
    try:
        _check_layers(path, facts)
        return Bundle(path, facts, _json(path, "lineage.json", list))
    except (KeyError, TypeError, AttributeError) as error:
        raise JaxptError(f"{path / 'model.json'} is broken ({error!r}); {WAY_OUT}") from error


def _json(path: Path, name: str, kind: type) -> Any:
    """As `jaxpt.files.digests.read_json`, of a stranger; what a lineage says may be NaN, what a model is may not."""
    values = parse_json(small_files.read_file(path, name, WAY_OUT), f"{path / name}", finite=name == "model.json")
    if not isinstance(values, kind):
        raise JaxptError(f"{path / name} is broken (it holds no {kind.__name__}); {WAY_OUT}")
    return values


def _check_layers(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuses more layers than there are digests of layers, before any is built."""
    layers, there = facts["config"]["layers"], sum(map(len, facts["digests"].values()))
    count = layers if isinstance(layers, int) else sum(entry.get("count", 1) for entry in layers)
    if count > there:
        raise JaxptError(f"{path / 'model.json'} has {short(count)} layers and digests of {there:,}; {WAY_OUT}")
