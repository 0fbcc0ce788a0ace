"""The config sections that name rows of packed sources: for scores and second moments, and to measure the loss."""

from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option


@dataclass(frozen=True)
class CalibrationConfig:
    """The data that scores and second moments come from: `batches` × `batch_size` rows of packed sources.

    Without sources scores are data-free.
    """

    sources: dict[str, str] = option({}, "paths of packed sources by name; none: scores come from the weights alone")
    mixture: dict[str, float] = option({}, "weights by the sources' names; none: equal")
    batches: int = option(16, "how many are read")
    batch_size: int = option(8, "rows of each")
    over_sequence: Literal["mean", "l2"] = option(
        "mean", "how a row's tokens are combined: mean |x|, or root mean square"
    )
    over_batch: Literal["l2", "mean"] = option("l2", "how rows are combined: root of the sum of squares, or mean")
    removal: bool = option(False, "also measure the loss change when each layer alone is left out")
    dtype: str = option("float32", "what matrix products run in")


@dataclass(frozen=True)
class HeldOutConfig:
    """Rows on which the loss is measured before and after: the first `batches` × `batch_size` of each packed source."""

    sources: dict[str, str] = option({}, "paths of packed sources by name; none: the loss is not measured")
    batches: int = option(4, "how many are read")
    batch_size: int = option(8, "rows of each")
