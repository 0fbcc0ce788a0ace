"""Reading a bundle: config and lineage at once, parameters one slice at a time or straight onto a mesh."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpt.bundles import store
from jaxpt.bundles.digest import slice_digest
from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig
from jaxpt.models.model import Model
from jaxpt.models.specs import flatten, param_specs, unflatten


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
        self._open: dict[str, Any] = {}

    def tokenizer(self) -> Any:
        """Returns the bundle's tokenizer, None where it has none.

        Raises:
            JaxptError: it is not the one the bundle was written with.
        """
        if not (self.path / "tokenizer").is_dir():
            return None
        from jaxpt import tokenizers

        tokenizer = tokenizers.load(self.path / "tokenizer")
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise JaxptError(
                f"{self.path / 'tokenizer'} is not the tokenizer this bundle was written with; write it again"
            )
        return tokenizer

    def read(self, leaf: str, layer: int | None = None, index: Any = ...) -> np.ndarray:
        """Returns a leaf, one layer of it, or the part of either that `index` (slices) cuts out, in its stored dtype.

        Raises:
            JaxptError: no such leaf, or damaged data (each chunk carries a checksum).
        """
        if leaf not in self.specs:
            raise JaxptError(f"{self.path}: {leaf} is no parameter of this model")
        try:
            if leaf not in self._open:
                self._open[leaf] = store.open_array(self.path / "params" / leaf)
            array = self._open[leaf]
            return store.read(array if layer is None else array[layer], index)
        except ValueError as e:
            raise JaxptError(
                f"{self.path / 'params' / leaf} is damaged or incomplete ({str(e)[:120]}); write it again"
            ) from e

    def params(self, dtype: str | None = None, shardings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns all parameters.

        Args:
            dtype: cast every leaf; None keeps each leaf's own.
            shardings: tree of `NamedSharding`; each device's part is read by itself, so that no host holds a leaf that
                is split. None: host (numpy) arrays.
        """
        where = flatten(shardings) if shardings is not None else {}

        def one(leaf: str) -> Any:
            def part(index: Any) -> np.ndarray:
                value = self.read(leaf, index=index)
                return value if dtype is None else value.astype(dtype)

            if leaf not in where:
                return part(...)
            return jax.make_array_from_callback(self.specs[leaf].shape, where[leaf], part)

        return unflatten({leaf: one(leaf) for leaf in self.specs})

    def model(self, dtype: str | None = None, shardings: Mapping[str, Any] | None = None) -> Model:
        """Returns the whole model with tokenizer and lineage; arguments as `params`."""
        return Model(self.config, self.params(dtype, shardings), self.tokenizer(), tuple(self.lineage))

    def verify(self) -> None:
        """Compares every slice with the digest taken when it was written.

        Raises:
            JaxptError: one differs.
        """
        for leaf, digests in self.digests.items():
            for i, want in enumerate(digests):
                if slice_digest(self.read(leaf, i if self.specs[leaf].stacked else None)) != want:
                    raise JaxptError(f"{self.path / 'params' / leaf}, layer {i}: not what was written; write it again")


def open_bundle(path: str | Path) -> Bundle:
    """Opens a bundle.

    Raises:
        JaxptError: nothing there, not whole (no lineage.json), or a broken file.
    """
    path = Path(path)
    if not path.is_dir():
        raise JaxptError(f"bundle {path} does not exist")
    parts = {}
    for name in ("lineage", "model"):
        file = path / f"{name}.json"
        if not file.is_file():
            raise JaxptError(f"{path} is no bundle: it has no {name}.json")
        try:
            parts[name] = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as e:
            raise JaxptError(f"{file} is broken ({e}); write the bundle again") from e
    if "digests" not in parts["model"]:
        raise JaxptError(f"{path} is no bundle: its model.json lists no parameters (a run directory?)")
    return Bundle(path, parts["model"], parts["lineage"])
