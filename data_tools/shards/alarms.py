"""Warnings of sources that lost much, few enough to be read."""

from collections.abc import Iterable
from dataclasses import dataclass

SMALL = 10  # documents; sources with fewer are counted together, as of one book each
NAMED = 3


@dataclass(frozen=True)
class Loss:
    """What a source lost: documents before and after, the largest share lost, and the warning about it alone."""

    source: str
    before: int
    after: int
    share: float
    line: str


def warnings(losses: Iterable[Loss], alarm: float, where: str = "") -> list[str]:
    """Returns a line for every source that lost more than the share `alarm`, and one for all small ones together.

    A source without documents has lost none.

    Args:
        losses: of each source.
        alarm: share.
        where: what the line about the small ones begins with, e.g. "clean: ".
    """
    hit = sorted((l for l in losses if l.before and l.share > alarm), key=lambda l: l.source)
    small = [loss for loss in hit if loss.before < SMALL]
    if len(small) < 2:
        return [loss.line for loss in hit]
    before, after = sum(loss.before for loss in small), sum(loss.after for loss in small)
    names = ", ".join(loss.source for loss in small[:NAMED]) + (", …" if len(small) > NAMED else "")
    return [loss.line for loss in hit if loss.before >= SMALL] + [
        f"warning: {where}{len(small):,} sources of fewer than {SMALL} documents lost {before - after:,} of {before:,} "
        f"(alarm at {alarm:.0%}): {names}"
    ]
