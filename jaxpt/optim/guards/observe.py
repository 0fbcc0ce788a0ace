"""A guard that only looks."""

from dataclasses import dataclass

from jaxpt.optim.guard import Judging


@dataclass(frozen=True)
class Observe(Judging):
    """Every step counts; spikes are counted, for the record and for `recovery`."""
