"""Which items of evaluation sets each training source holds: a file that decontamination writes and `jaxpt eval` reads.

One JSON object, `contaminated.json` (docs/dedup.md shows one). An item is known by the digest of its text, which both
sides make of the same fields of a record; so an item is found whatever its order or name.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import fsspec

from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest

NAME = "contaminated.json"  # in the folder that decontamination writes
FORMAT, VERSION = "jaxpt contaminated items", 1


def item_text(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Returns the text of an evaluation item: the values of `fields`, of lists each entry, joined by line breaks."""
    parts: list[str] = []
    for name in fields:
        value = record.get(name)
        parts += [str(v) for v in value] if isinstance(value, list) else [str(value)] if value is not None else []
    return "\n".join(parts)


def digest_of(text: str) -> str:
    """Returns what an item is known by: 128 bits of the SHA-256 of its text, in hex, all white space as one space."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass
class Overlap:
    """How one rule tied an item to documents of a source."""

    documents: int = 0
    most: float = 0.0  # tokens in common for "long" and "whole", share of the item for "ratio" and "gapped"


@dataclass
class Held:
    """What one source holds of one item."""

    documents: int = 0  # that hold it, by whatever rule
    rules: dict[str, Overlap] = field(default_factory=dict)

    def add(self, rules: Mapping[str, float]) -> None:
        """Counts one more document, tied to the item by `rules` (rule -> value)."""
        self.documents += 1
        for rule, value in rules.items():
            overlap = self.rules.setdefault(rule, Overlap())
            overlap.documents += 1
            overlap.most = max(overlap.most, value)


@dataclass(frozen=True)
class EvaluationSet:
    """The items that were looked for: digests in file order, and the positions of those that could not be checked."""

    digests: tuple[str, ...]
    unchecked: tuple[int, ...] = ()


@dataclass(frozen=True)
class HeldItem:
    """An item that some source holds."""

    set: str
    id: str  # of its record, or its number
    position: int  # in its set, from 0
    digest: str
    sources: Mapping[str, Held]


@dataclass(frozen=True)
class Contamination:
    """What decontamination found in the documents as they came, before anything was taken out of them."""

    fields: tuple[str, ...]  # of a record, that make an item's text
    rules: Mapping[str, Any]
    sources: Mapping[str, int]  # documents of each
    sets: Mapping[str, EvaluationSet]
    items: tuple[HeldItem, ...]
    name: str = ""  # of the file it was read from

    @cached_property
    def known(self) -> frozenset[str]:
        """The digests of all items that were looked for."""
        return frozenset(d for s in self.sets.values() for d in s.digests)

    @cached_property
    def unchecked(self) -> frozenset[str]:
        """The digests of items that are too short, or nothing but their set's wording: nobody knows who holds them."""
        return frozenset(s.digests[i] for s in self.sets.values() for i in s.unchecked)

    @cached_property
    def held(self) -> Mapping[str, Mapping[str, Held]]:
        """What each source holds, by the item's digest."""
        return {item.digest: item.sources for item in self.items}

    def table(self) -> list[list[object]]:
        """Returns rows (set, source, items held, share of the set's items, documents) of those that hold any."""
        counts: dict[tuple[str, str], list[int]] = {}
        for item in self.items:
            for source, held in item.sources.items():
                entry = counts.setdefault((item.set, source), [0, 0])
                entry[0] += 1
                entry[1] += held.documents
        return [
            [name, source, items, items / len(self.sets[name].digests), documents]
            for (name, source), (items, documents) in sorted(counts.items())
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "fields": list(self.fields),
            "rules": dict(self.rules),
            "sources": dict(self.sources),
            "sets": {n: {"digests": list(s.digests), "unchecked": list(s.unchecked)} for n, s in self.sets.items()},
            "items": [asdict(item) for item in self.items],
        }


def read_all(paths: str) -> list[Contamination]:
    """Returns what the files or folders `A,B,…` say; as `read`."""
    return [read(path) for path in paths.split(",")]


def digest(files: Sequence[Contamination]) -> str:
    """Returns what tells files of other content apart, wherever they lie."""
    return canonical_digest([file.to_dict() for file in files])


def read(path: str) -> Contamination:
    """Returns what a file, or the folder that decontamination wrote, says.

    Raises:
        JaxptError: there is no such file, or it is another thing.
    """
    fs, inner = fsspec.core.url_to_fs(path)
    file = f"{path.rstrip('/')}/{NAME}" if fs.isdir(inner) else path
    try:
        value = json.loads(fs.cat_file(fsspec.core.url_to_fs(file)[1]))
    except FileNotFoundError as error:
        raise JaxptError(f"{file} is missing; jaxpt-data decontaminate writes it into its --output") from error
    except ValueError as error:
        raise JaxptError(f"{file} is not JSON; give the {NAME} that jaxpt-data decontaminate writes") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise JaxptError(f"{file} is not a list of contaminated items; give the {NAME} of jaxpt-data decontaminate")
    if value.get("version") != VERSION:
        raise JaxptError(f"{file} has version {value.get('version')}, this jaxpt reads {VERSION}; decontaminate again")
    try:
        return _parse(value, file)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise JaxptError(f"{file} is damaged ({type(error).__name__}: {error}); decontaminate again") from error


def _parse(value: Mapping[str, Any], file: str) -> Contamination:
    def held(entry: Mapping[str, Any]) -> Held:
        return Held(entry["documents"], {rule: Overlap(**overlap) for rule, overlap in entry["rules"].items()})

    sets = {n: EvaluationSet(tuple(s["digests"]), tuple(s["unchecked"])) for n, s in value["sets"].items()}
    items = [{**item, "sources": {n: held(h) for n, h in item["sources"].items()}} for item in value["items"]]
    found = Contamination(
        tuple(value["fields"]),
        value["rules"],
        value["sources"],
        sets,
        tuple(HeldItem(**item) for item in items),
        file,
    )
    for item in found.items:
        if sets[item.set].digests[item.position] != item.digest:
            raise IndexError(f"item {item.id} of {item.set} is not at {item.position}")
    return found
