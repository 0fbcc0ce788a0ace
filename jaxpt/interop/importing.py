"""Hugging Face in: into a bundle tensor by tensor, or straight onto a mesh."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxpt import tokenizers
from jaxpt.bundles import BundleWriter
from jaxpt.files.partial import sha256
from jaxpt.interop.checkpoint import HuggingFaceCheckpoint
from jaxpt.models.config import ModelConfig
from jaxpt.models.model import Model
from jaxpt.models.params import Array, Params, Shardings
from jaxpt.models.specs import flatten, unflatten
from jaxpt.tokenizers.interface import Tokenizer

Report = Callable[[int], None]


def import_bundle(
    source: str | Path,
    target: str | Path,
    report: Report = lambda tensors: None,
    *,
    family: str | None = None,
    inert: Sequence[str] = (),
) -> Path:
    """Writes a Hugging Face directory as a bundle, one foreign tensor in memory at a time, each dtype kept.

    Args:
        source: the directory.
        target: the bundle; must not exist.
        report: called with 1 after each tensor, and for each file whose digest is taken.
        family: as `HuggingFaceCheckpoint` takes it.
        inert: likewise.

    Raises:
        JaxptError: as `HuggingFaceCheckpoint` and `BundleWriter`; nothing is left at `target` then.
    """
    checkpoint = HuggingFaceCheckpoint(source, family, inert)
    tokenizer = _tokenizer(checkpoint.path, checkpoint.config)
    with BundleWriter(target, checkpoint.config, checkpoint.dtypes) as writer:
        for name, (_, leaf, at) in checkpoint.places.items():
            writer.write(leaf, at[0] if at else None, checkpoint.slice(name), *at[1:])
            report(1)
        return writer.finish(tokenizer, [lineage_entry(checkpoint, report)])


def lineage_entry(checkpoint: HuggingFaceCheckpoint, report: Report = lambda files: None) -> dict[str, object]:
    """Returns what the lineage says of an import: files with their SHA-256, family, dtypes, the foreign configs."""
    files = {"config.json": sha256(checkpoint.path / "config.json")}
    for name in checkpoint.files:
        files[name] = _sha256(file := checkpoint.path / name, file.stat().st_size, file.stat().st_mtime_ns)
        report(1)
    return {
        "op": "import",
        "options": {
            "family": checkpoint.family.model_type,
            "from": checkpoint.path.name,
            **({"inert": list(checkpoint.inert)} if checkpoint.inert else {}),
        },
        "dtypes": sorted(set(checkpoint.dtypes.values())),
        "files": files,
        "config": checkpoint.values,
        **({"generation_config": checkpoint.generation} if checkpoint.generation else {}),
    }


@functools.lru_cache
def _sha256(file: Path, size: int, changed_ns: int) -> str:
    """The digest of a file of many gigabytes, taken once as long as the file is the same."""
    return sha256(file)


def load_hf(path: str | Path, *, dtype: str | None = None, shardings: Shardings | None = None) -> Model:
    """Returns a Hugging Face model in memory.

    Args:
        path: the directory.
        dtype: cast every parameter; None keeps each one's own.
        shardings: tree of `NamedSharding`; each device's part is read by itself, so that no host holds a leaf that is
            split. None: host arrays.

    Raises:
        JaxptError: as `HuggingFaceCheckpoint`.
    """
    checkpoint = HuggingFaceCheckpoint(path)
    params = read_params(checkpoint, dtype, shardings)
    return Model(
        checkpoint.config, params, _tokenizer(checkpoint.path, checkpoint.config), (lineage_entry(checkpoint),)
    )


def read_params(
    checkpoint: HuggingFaceCheckpoint, dtype: str | None = None, shardings: Shardings | None = None
) -> Params:
    """Returns the parameters of an opened checkpoint; arguments as `load_hf`."""
    where = flatten(shardings) if shardings is not None else {}
    names: dict[str, list[str]] = {}
    for name, (_, leaf, _) in checkpoint.places.items():
        names.setdefault(leaf, []).append(name)  # in the order of layers, then experts

    def part(leaf: str, index: tuple[slice, ...]) -> np.ndarray:
        spec = checkpoint.specs[leaf]
        kept = dtype or checkpoint.dtypes[leaf]
        pieces = len(spec.pieces)
        wanted = np.asarray(np.array(names[leaf]).reshape(spec.pieces)[tuple(index[:pieces])])
        shape = [len(range(*cut.indices(n))) for cut, n in zip(index, spec.shape)]
        out = np.empty(shape, kept)
        for at in np.ndindex(wanted.shape):
            out[at] = checkpoint.slice(str(wanted[at]), tuple(index[pieces:]))
        return out

    def one(leaf: str) -> Array:
        shape = checkpoint.specs[leaf].shape
        if leaf in where:
            return jax.make_array_from_callback(shape, where[leaf], lambda index: part(leaf, index or ()))
        return part(leaf, tuple(slice(0, n) for n in shape))

    return unflatten({leaf: one(leaf) for leaf in checkpoint.specs})


def read_hf_config(path: str | Path) -> ModelConfig:
    """Returns the model that a Hugging Face directory describes, tensors checked but not read."""
    return HuggingFaceCheckpoint(path).config


def has_tokenizer(path: Path) -> bool:
    """Whether a Hugging Face directory has a tokenizer; weights without one are a model too."""
    return (path / "tokenizer.json").exists() or (path / "vocab.json").exists() or any(path.glob("*.model"))


def _tokenizer(path: Path, config: ModelConfig) -> Tokenizer | None:
    """The directory's tokenizer; a line is printed where it has tokens that the model has not."""
    tokenizer = tokenizers.load(path) if has_tokenizer(path) else None
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        first, last = (tokenizer.piece(i) for i in (config.vocab_size, tokenizer.vocab_size - 1))
        print(
            f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model's vocabulary has "
            f"{config.vocab_size:,} entries: {first!r} to {last!r} are unknown to it; text that "
            f"holds one can be neither trained nor continued",
            file=sys.stderr,
        )
    return tokenizer
