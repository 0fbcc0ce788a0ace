"""Sources given as text: tokenized and packed on first use, recognised by content on every later one."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from jaxpt.cli.terminal import progress
from jaxpt.data.build import Packing, build
from jaxpt.data.origins import Origin, open_origin
from jaxpt.data.packed import FORMAT, PackedSource
from jaxpt.files.lock import Lock, beside
from jaxpt.tokenizers.fingerprints import earlier_names
from jaxpt.tokenizers.interface import Tokenizer


def packed_on_first_use(
    path: str | Sequence[str],
    sequence_length: int,
    packing: Packing,
    tokenizer: Tokenizer,
    cache: Path,
    what: str = "text",
) -> PackedSource:
    """Returns the packed source of the documents at `path`, packing them into `cache` unless they are there.

    The cache's key is the content of the inputs in their order, the tokenizer's fingerprint, the sequence length and
    the packing options: text that moved is recognised, text that changed is packed again. Processes that need the same
    source at once wait for the one that packs, and say so; a killed one leaves nothing that is taken for a source.

    Args:
        path: what `open_origin` takes.
        sequence_length: tokens in a row.
        packing: how documents become rows.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        cache: directory, made where absent.
        what: what the progress bar calls it.

    Raises:
        JaxptError: bad input, named.
    """
    origin = open_origin(path)
    cache.mkdir(parents=True, exist_ok=True)
    content, options = origin.fingerprint(cache / "files.json"), packing.facts(tokenizer)

    def place_of(fingerprint: str) -> Path:
        facts = [FORMAT, content, fingerprint, sequence_length, options]
        return cache / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    place = place_of(tokenizer.fingerprint)
    earlier = () if place.exists() else (place_of(name) for name in earlier_names(tokenizer))
    place = next((p for p in earlier if p.exists()), place)
    if not place.exists():
        with Lock(beside(place), what).wait():
            if not place.exists():
                _pack(origin, place, sequence_length, packing, tokenizer, what)
    return PackedSource.open(place)


def _pack(origin: Origin, place: Path, length: int, packing: Packing, tokenizer: Tokenizer, what: str) -> None:
    with progress(origin.size, f"pack {what}", origin.unit, scale=True) as bar:

        def report(documents: int, tokens: int) -> None:
            bar.update(max(0, origin.position - bar.n))

        source = build(origin, place, tokenizer, length, packing, report=report)
        bar.update(origin.size - bar.n)
        bar.set_postfix(tokens=f"{source.tokens:,}", rows=f"{source.rows:,}")
