"""A guard that skips outliers (OLMo-core's SkipStepOptimizer)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxpt.optim.guard import Protecting


@dataclass(frozen=True)
class Skip(Protecting):
    """A step is skipped where it is an outlier, or where anything after it would be NaN or infinite."""

    skips_outliers: ClassVar[bool] = True
