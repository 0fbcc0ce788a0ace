"""The config sections that name rows of packed sources: for scores and second moments, and to measure the loss."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CalibrationConfig:
    """The data that scores and second moments come from: `batches` × `batch_size` rows of packed sources.

    `sources` maps names to paths, `mixture` names to weights (none: equal). Without sources scores are data-free.
    `dtype` is what matrix products run in.
    """

    sources: dict[str, str] = field(default_factory=dict)
    mixture: dict[str, float] = field(default_factory=dict)
    batches: int = 16
    batch_size: int = 8
    over_sequence: str = "mean"
    over_batch: str = "l2"
    removal: bool = False
    dtype: str = "float32"


@dataclass(frozen=True)
class HeldOutConfig:
    """Rows on which the loss is measured before and after: the first `batches` × `batch_size` of each packed source."""

    sources: dict[str, str] = field(default_factory=dict)
    batches: int = 4
    batch_size: int = 8
