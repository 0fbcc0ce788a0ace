"""No guard."""

from dataclasses import dataclass

from jaxpt.optim.guard import Guard


@dataclass(frozen=True)
class Unguarded(Guard):
    """Every step counts; a value that is not finite stops the run where it is logged or saved."""
