"""Which of several implementations computes a call: by name, or the first of a preference list that does not refuse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxpt.errors import JaxptError, nearest


class Refuses(Protocol):
    """What every implementation of every kernel has."""

    def refuses(self, call: Any) -> str | None:
        """Returns why this kernel does not apply to `call`, None where it does."""


@dataclass(frozen=True)
class Preferred:
    """An entry of a preference list: `name`, from so many (keys of attention) on; with fewer, the next is as fast."""

    name: str
    least: int = 0


@dataclass(frozen=True)
class Chosen:
    """What a call is computed by, and why each implementation that comes before it in the preference is not."""

    name: str
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        """The choice as a line of a log ends."""
        return self.name + "".join(f"; not {name}: {reason}" for name, reason in self.refused)


def parse_names(value: str, known: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns the names in `value`, one or several separated by commas; () for "auto", each platform's own list.

    Raises:
        JaxptError: an unknown name.
    """
    if value == "auto":
        return ()
    names = tuple(value.split(","))
    every = ["auto", *known]
    for name in names:
        if name not in known:
            raise JaxptError(f"{where} is {value!r}, it must be one of {every}{nearest(name, every)}, or several: a,b")
    return names


def first_that_applies(
    kernels: Mapping[str, Refuses], order: Sequence[Preferred], call: Any, size: int, asked: str, reference: str
) -> Chosen:
    """Returns the first of `order` that takes `call`.

    Args:
        kernels: by name.
        order: the preference.
        call: what `refuses` is asked with.
        size: what `Preferred.least` is compared with.
        asked: the option as it was given, for the error.
        reference: the implementation that always applies.

    Raises:
        JaxptError: each refuses, with the reasons.
    """
    refused: list[tuple[str, str]] = []
    for entry in order:
        reason = kernels[entry.name].refuses(call)
        if reason is None and size < entry.least:
            reason = f"the next is as fast below {entry.least} keys"
        if reason is None:
            return Chosen(entry.name, tuple(refused))
        refused.append((entry.name, reason))
    reasons = "; ".join(f"{name!r} does not apply: {reason}" for name, reason in refused)
    raise JaxptError(f"{asked}: {reasons}; use auto or {reference}")
