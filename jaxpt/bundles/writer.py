"""Writing a bundle slice by slice; it has its name only when it is whole."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np

from jaxpt.bundles import store
from jaxpt.bundles.digest import hex_digest, slice_sums
from jaxpt.bundles.moments import Moments, write_moments
from jaxpt.errors import JaxptError
from jaxpt.files.digests import MODEL_FORMAT, write_digests
from jaxpt.files.partial import partial_directory, storage_error
from jaxpt.models.config import ModelConfig
from jaxpt.models.model import Model
from jaxpt.models.params import Array
from jaxpt.models.specs import flatten, param_specs
from jaxpt.tokenizers.interface import Tokenizer

DTYPES = ("float32", "bfloat16", "float16")


class BundleWriter:
    """Writes a model into a temporary sibling of `path`; `finish` checks that nothing is missing and renames it.

    Use as a context manager: leaving it without `finish` removes what was written.
    """

    def __init__(self, path: str | Path, config: ModelConfig, dtypes: str | Mapping[str, str] = "float32"):
        """Starts a bundle.

        Args:
            path: the bundle's directory; must not exist.
            config: the model.
            dtypes: stored dtype of every leaf, or of each by its path.

        Raises:
            JaxptError: `path` exists, its parent cannot be written, or a dtype is unknown.
        """
        self.path, self.config = Path(path), config
        self._specs = flatten(param_specs(config))
        self.dtypes = {p: dtypes if isinstance(dtypes, str) else dtypes[p] for p in self._specs}
        for leaf, dtype in self.dtypes.items():
            if dtype not in DTYPES:
                raise JaxptError(f"{leaf}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self._open = ExitStack()
        self._partial = self._open.enter_context(partial_directory(self.path))
        try:
            self._arrays = {
                p: store.create(self._partial / "params" / p, s, self.dtypes[p]) for p, s in self._specs.items()
            }
        except (ValueError, OSError) as e:  # the former is what TensorStore raises
            self._open.close()
            raise storage_error(self.path, e) from e
        layers = {p: s.shape[0] if s.stacked else 1 for p, s in self._specs.items()}
        self._sums = {p: np.zeros((n, 2), np.uint32) for p, n in layers.items()}
        self._written = {
            p: np.zeros((n, *s.pieces[1:]), bool) for (p, s), n in zip(self._specs.items(), layers.values())
        }

    def __enter__(self) -> "BundleWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, leaf: str, layer: int | None, value: Array, expert: int | None = None) -> None:
        """Stores one layer of a stacked leaf (`layer` counts within its stack), or a whole leaf (`layer` None).

        With `expert`, only that expert's part of the layer; each part is written once.

        Raises:
            JaxptError: an unknown leaf, another shape or dtype than declared, a part that has been written.
        """
        if leaf not in self._specs:
            raise JaxptError(f"{self.path}: {leaf} is not a parameter of this model")
        spec, value = self._specs[leaf], np.asarray(value)
        if (layer is not None) != spec.stacked or (expert is not None and len(spec.pieces) < 2):
            raise JaxptError(f"{leaf}: a stacked leaf is written layer by layer, another one whole")
        at = tuple(i for i in (layer, expert) if i is not None)
        want = spec.shape[len(at) :]
        if value.shape != want:
            raise JaxptError(f"{leaf}: shape {value.shape}, the model's is {want}")
        if str(value.dtype) != self.dtypes[leaf]:
            raise JaxptError(
                f"{leaf}: dtype {value.dtype}, declared as {self.dtypes[leaf]}; cast it where that is meant"
            )
        place = (layer or 0, *at[1:])
        if self._written[leaf][place].any():
            raise JaxptError(f"{leaf}{list(at)} is written twice")
        try:
            self._arrays[leaf][at].write(value).result()
        except (ValueError, OSError) as e:
            raise storage_error(self.path, e) from e
        self._sums[leaf][place[0]] += slice_sums(value, (expert or 0) * value.size)
        self._written[leaf][place] = True

    def finish(
        self,
        tokenizer: Tokenizer | None = None,
        lineage: Sequence[Mapping[str, object]] = (),
        moments: Moments | None = None,
    ) -> Path:
        """Writes model.json, the tokenizer, lineage.json, moments and the digests of these; the bundle gets its name.

        Raises:
            JaxptError: a slice was never written.
        """
        missing = [f"{p}[{', '.join(map(str, i))}]" for p, w in self._written.items() for i in np.argwhere(~w)]
        if missing:
            raise JaxptError(f"{self.path}: not written: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")
        model = {
            "format": MODEL_FORMAT,
            "config": self.config.to_dict(),
            "tokenizer_fingerprint": None if tokenizer is None else tokenizer.fingerprint,
            "dtypes": self.dtypes,
            "digests": {p: [hex_digest(s) for s in sums] for p, sums in self._sums.items()},
        }
        try:
            _write_json(self._partial / "model.json", model)
            if tokenizer is not None:
                tokenizer.save(self._partial / "tokenizer")
            _write_json(self._partial / "lineage.json", list(lineage))
            files = [] if moments is None else write_moments(self._partial, moments, self._specs)
            write_digests(self._partial, [*self._small_files(), *files])
            self._partial.rename(self.path)
        except (ValueError, OSError) as e:  # the former is what TensorStore raises
            raise storage_error(self.path, e) from e
        return self.path

    def _small_files(self) -> list[str]:
        """All files but the chunks, which carry checksums of their own."""
        files = [file for file in (self._partial / "tokenizer").rglob("*") if file.is_file()]
        tokenizer = [file.relative_to(self._partial).as_posix() for file in files]
        return ["model.json", "lineage.json", *tokenizer, *(store.metadata_file(leaf) for leaf in self._specs)]


def save_bundle(model: Model, path: str | Path) -> Path:
    """Writes a model in memory (host or sharded arrays) as a bundle; each leaf keeps its dtype.

    Raises:
        JaxptError: as `BundleWriter`; parameters that are not those of the config.
    """
    flat, specs = flatten(model.params), flatten(param_specs(model.config))
    if flat.keys() != specs.keys():
        odd = sorted(flat.keys() ^ specs.keys())
        raise JaxptError(f"{path}: the parameters are not those of the config; they differ in {', '.join(odd[:5])}")
    with BundleWriter(path, model.config, {p: str(leaf.dtype) for p, leaf in flat.items()}) as writer:
        for leaf, value in flat.items():
            if specs[leaf].stacked:
                for i in range(value.shape[0]):
                    writer.write(leaf, i, jax.device_get(value[i]))
            else:
                writer.write(leaf, None, jax.device_get(value))
        return writer.finish(model.tokenizer, model.lineage)


def _write_json(file: Path, values: object) -> None:
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
