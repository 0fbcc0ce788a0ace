"""The sources a config names, opened: packed ones as they are, text packed into the cache on first use."""

from collections.abc import Sequence
from pathlib import Path

from jaxpt.data import PackedSource
from jaxpt.data.build import Packing
from jaxpt.data.cache import packed_on_first_use
from jaxpt.data.origins import is_text
from jaxpt.data.remote import default_cache, file_system
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError
from jaxpt.files.absent import absent
from jaxpt.tokenizers import Tokenizer
from jaxpt.training.config import RunConfig, StageConfig


def open_sources(config: RunConfig, tokenizer: Tokenizer | None) -> tuple[dict[str, PackedSource], Tokenizer | None]:
    """Returns the opened sources of `config.sources`, in that order, and the run's tokenizer.

    Args:
        config: the run.
        tokenizer: of `config.tokenizer` or `init_from`; None where neither has one: then the first that a packed source
            carries is the run's.

    Raises:
        JaxptError: a source that is neither, text without a tokenizer or with no one row length.
    """
    packed = {name: _packed(config, name) for name, source in config.sources.items() if not is_text(source.path)}
    carried = (source.tokenizer() for source in packed.values())
    tokenizer = tokenizer or next((one for one in carried if one is not None), None)
    return {name: packed.get(name) or _text(config, name, tokenizer) for name in config.sources}, tokenizer


def cache_folder(config: RunConfig) -> Path:
    """Where packed text and what was measured of this machine's kernels is kept."""
    return Path(config.cache) if config.cache else default_cache()


def _packed(config: RunConfig, name: str) -> PackedSource:
    source = config.sources[name]
    if source.pack != Packing():
        fs, inner = file_system(str(source.path))
        if not fs.exists(inner):
            raise JaxptError(f"config.sources.{name}.path: {source.path} {absent(source.path)}")
        raise JaxptError(
            f"config.sources.{name}.pack is set, but {source.path} is packed already; remove pack or name the text"
        )
    return PackedSource.open(source.path, cache_folder(config))


def _text(config: RunConfig, name: str, tokenizer: Tokenizer | None) -> PackedSource:
    source, where = config.sources[name], f"config.sources.{name}"
    if tokenizer is None:
        raise JaxptError(f"{where}: {source.path} is text, which needs a tokenizer; set --config.tokenizer")
    try:
        length = row_length(config, name)
        return packed_on_first_use(source.path, length, source.pack, tokenizer, cache_folder(config), name)
    except JaxptError as error:
        raise JaxptError(f"{where}: {error}") from error


def row_length(config: RunConfig, name: str) -> int:
    """Returns the sequence length of the stages that use source `name`; where none does, of those that name it with a
    weight of 0, else of all stages.

    Raises:
        JaxptError: they differ.
    """
    weights = [flat_weights(stage.mixture) for stage in config.stages]
    using: Sequence[StageConfig] = [s for s, w in zip(config.stages, weights) if w.get(name, 0) > 0]
    using = using or [s for s, w in zip(config.stages, weights) if name in w] or config.stages
    lengths = sorted({stage.sequence_length for stage in using})
    if len(lengths) > 1:
        raise JaxptError(
            f"stages use it at sequence lengths {', '.join(map(str, lengths))}; give a source for each length, "
            f"with other documents in each (pack.selection)"
        )
    return lengths[0]
