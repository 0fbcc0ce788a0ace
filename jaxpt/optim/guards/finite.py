"""A guard against NaN and infinities."""

from dataclasses import dataclass

from jaxpt.optim.guard import Protecting


@dataclass(frozen=True)
class Finite(Protecting):
    """A step after which anything would be NaN or infinite is skipped; outliers are counted and taken."""
