"""The passages of a document that match: how much of it they are, and the document without them."""

from collections.abc import Iterable
from dataclasses import dataclass

from data_tools.decontaminate.index import Match, merged
from data_tools.dedup import folding

NEAR = 40  # characters within which a cut is moved to white space


@dataclass(frozen=True)
class Passages:
    """Where a document holds evaluation items."""

    spans: tuple[tuple[int, int], ...]  # characters, from and to, ascending
    share: float  # of the document's tokens


def passages(text: str, matches: Iterable[Match]) -> Passages:
    """Returns the passages of `text` that its `matches` (at least one) point at."""
    begin, end = folding.token_spans(text)
    tokens = merged(span for match in matches for span in match.spans)
    spans = tuple((int(begin[a]), int(end[min(b, len(end)) - 1])) for a, b in tokens)
    return Passages(spans, sum(b - a for a, b in tokens) / len(begin))


def without(text: str, spans: Iterable[tuple[int, int]], margin: int, mask: str) -> tuple[str, int]:
    """Returns `text` with a blank line, or `mask` between two, in place of each passage, and how many went.

    Args:
        text: a document.
        spans: of its characters.
        margin: characters on either side that go too, to the next white space (arXiv 2005.14165, appendix C: 200).
        mask: what stands in place of a passage.
    """
    wide = merged(_words(text, max(a - margin, 0), min(b + margin, len(text))) for a, b in spans)
    between = f"\n\n{mask}\n\n" if mask else "\n\n"
    pieces, at = [], 0
    for start, stop in wide:
        pieces.append(text[at:start].rstrip())
        at = stop
    left = between.join([*pieces, text[at:].lstrip()])
    return (left if mask else left.strip()), len(wide)


def _words(text: str, start: int, stop: int) -> tuple[int, int]:
    """Returns a span widened to the next white space within `NEAR` characters on either side."""
    before = range(start, max(start - NEAR, 0), -1)
    after = range(stop, min(stop + NEAR, len(text)))
    return (
        next((i for i in before if text[i - 1].isspace()), start),
        next((i for i in after if text[i].isspace()), stop),
    )
