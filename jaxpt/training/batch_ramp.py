"""Batch sizes that change inside a stage: from which of its steps or tokens on which size holds."""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from jaxpt.config.duration import Duration, parse
from jaxpt.errors import JaxptError

_FORM = re.compile(r"^\s*([0-9]+)\s+from\s+(.+)$")


class Change(NamedTuple):
    """`batch_size` holds from the first step at whose beginning `start` of the stage is done."""

    batch_size: int
    start: Duration


def changes(entries: Sequence[str], batch_size: int, microbatches: int, where: str) -> list[Change]:
    """Reads `"64 from 1.5M tokens"`, entry by entry.

    Args:
        entries: as the config has them.
        batch_size: the stage's, which holds until the first of them.
        microbatches: the stage's; a microbatch keeps its rows.
        where: config key for error messages.

    Raises:
        JaxptError: another text; steps in one entry and tokens in another; places that do not rise; a size that is no
            multiple of a microbatch's rows.
    """
    out: list[Change] = []
    for i, entry in enumerate(entries):
        match = _FORM.match(entry)
        if not match:
            raise JaxptError(f'{where}[{i}] is {entry!r}, it must look like "64 from 1.5M tokens"')
        out.append(Change(int(match[1]), parse(match[2], f"{where}[{i}]")))
        rows = batch_size // microbatches
        if out[-1].batch_size < 1 or out[-1].batch_size % rows:
            raise JaxptError(
                f"{where}[{i}] is {entry!r}: {match[1]} rows are no multiple of the {rows} of a microbatch; change the "
                f"size, or the stage's microbatches"
            )
        if out[1:] and out[-1].start.unit != out[-2].start.unit:
            raise JaxptError(f"{where}: {entries[i - 1]!r} counts {out[-2].start.unit}, {entry!r} counts "
                             f"{out[-1].start.unit}; use one unit")  # fmt: skip
        if out[-1].start.amount <= (out[-2].start.amount if out[1:] else 0):
            raise JaxptError(f"{where}[{i}] is {entry!r}, which does not come after what is before it")
    return out


def left(
    duration: Duration, batch_size: int, length: int, ramp: Sequence[Change], steps: int, tokens: int
) -> list[tuple[int, int]]:
    """Returns (batch size, steps) of what a stage has left, in order; steps below 0 where more than all is done.

    Args:
        duration: of the stage. One in tokens counts tokens done, one in steps counts steps done.
        batch_size: until the first change of `ramp`.
        length: tokens of a row.
        ramp: from `changes`.
        steps: of the stage that are done.
        tokens: of the stage that are done.
    """
    out: list[tuple[int, int]] = []
    sizes = [batch_size, *(change.batch_size for change in ramp)]
    for size, until in zip(sizes, [*(change.start for change in ramp), None]):
        end = _needed(duration, size * length, steps, tokens)
        part = end if until is None else min(end, _needed(until, size * length, steps, tokens))
        if part > 0 or (until is None and not out):
            out.append((size, part))
            steps, tokens = steps + part, tokens + part * size * length
    return out


def _needed(amount: Duration, size: int, steps: int, tokens: int) -> int:
    """How many steps of `size` tokens until `amount` is done."""
    if amount.unit == "steps":
        return math.ceil(amount.amount) - steps
    return math.ceil((Fraction(amount.amount) - tokens) / size)
