"""What is compared: documents, paragraphs or lines of a shard, their exact hashes and who of two equals stays."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

import numpy as np
import xxhash

from jaxpt.errors import JaxptError, nearest

SCORE = "class_score"  # what `classify` leaves in a record
ROW_BITS = 32  # a unit's number is its shard's number << 32 | its index in the shard
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
_LINE_END = re.compile(r"\n\s*")


class Shard(Protocol):
    """One input file: rows in a fixed order, read as often as needed, also from another process (picklable)."""

    name: str
    fingerprint: str

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yields the valid rows, each with a string `text`."""
        ...


def _spans(text: str, end: re.Pattern) -> Iterator[tuple[int, int]]:
    at = 0
    for gap in end.finditer(text):
        yield at, gap.start()
        at = gap.end()
    yield at, len(text)


UNITS = {
    "document": lambda text: [(0, len(text))],
    "paragraph": lambda text: [s for s in _spans(text, _PARAGRAPH_END) if s[1] > s[0]],
    "line": lambda text: [s for s in _spans(text, _LINE_END) if s[1] > s[0]],
}


@dataclass(frozen=True)
class SurvivorRule:
    """Which of several equal units survives: the one with the highest preference, then the first.

    `quality`: the best score in `field` (`SCORE` by default), of those with about the same score the longest; a row
    with a score is preferred to one without, of which the longest survives.
    """

    policy: str = "quality"  # quality, longest, newest, best or first
    field: str = ""  # of the row: a date for newest, a number for best and quality

    def check(self) -> None:
        """Raises JaxptError for an unknown policy, or one that needs a field and has none."""
        known = ("quality", "longest", "newest", "best", "first")
        if self.policy not in known:
            raise JaxptError(
                f"survivor={self.policy!r} is unknown{nearest(self.policy, known)}; known: {', '.join(known)}"
            )
        if self.policy in ("newest", "best") and not self.field:
            raise JaxptError(f"survivor={self.policy!r} needs survivor_field, the name of a field of the rows")

    def preference(self, row: Mapping[str, Any], length: int) -> float:
        """Returns how much a unit of `row` is preferred; a row without the field, or with nonsense in it, least."""
        if self.policy == "longest":
            return float(length)
        if self.policy == "quality":
            return _quality(row.get(self.field or SCORE), length)
        value = row.get(self.field)
        if self.policy == "first" or value is None:
            return 0.0 if self.policy == "first" else -np.inf
        try:
            if self.policy == "best" or isinstance(value, (int, float)):
                return float(value) if float(value) == float(value) else -np.inf
            date = datetime.fromisoformat(str(value))
            return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()  # noqa: UP017
        except ValueError:
            return -np.inf


def _quality(value: Any, length: int) -> float:
    """Returns a preference that goes by the score, in steps of 1/2048 where it is a probability, then by length."""
    try:
        score = float(value)
    except (TypeError, ValueError):
        return float(length)
    if score != score:
        return float(length)
    if score < 0:
        squashed = 0.25 / (1 - score)
    else:
        squashed = 0.25 + 0.5 * score if score <= 1 else 1 - 0.25 / score
    return float((1 << 40) + (round(squashed * 4095) << 27) + min(length, (1 << 27) - 1))


def order_key(preferences: Sequence[float], run: int) -> np.ndarray:
    """Returns `[n] int64`, smaller for what is preferred: earlier runs first, then the higher preference.

    Args:
        preferences: any floats but nan.
        run: 0 … 127, number of the run that brought the units in; what an earlier run kept stays.
    """
    if not 0 <= run < 128:
        raise JaxptError(f"a signature store holds 128 runs, this would be number {run + 1}; start a new store")
    bits = (-np.asarray(preferences, dtype=np.float64) + 0.0).view(np.int64)
    ascending = np.where(bits < 0, bits ^ np.int64(0x7FFFFFFFFFFFFFFF), bits)  # order of floats as order of integers
    return (np.int64(run - 64) << np.int64(56)) + (ascending >> np.int64(8)) + (np.int64(1) << np.int64(55))


def exact_hash(text: str) -> tuple[int, int]:
    """Returns the 128-bit XXH3 of the UTF-8 of `text` without surrounding white space, as (high, low)."""
    value = xxhash.xxh3_128_intdigest(text.strip().encode("utf-8", "surrogatepass"))
    return value >> 64, value & (1 << 64) - 1


def without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Returns `text` without the given sorted spans and without the white space after each."""
    parts, at = [], 0
    for start, stop in spans:
        parts.append(text[at:start])
        while stop < len(text) and text[stop].isspace():
            stop += 1
        at = stop
    return "".join([*parts, text[at:]]).rstrip() if spans else text
