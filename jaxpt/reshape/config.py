"""The keys of `configs/reshape/*`: which transforms, to which shape, scored on what."""

from dataclasses import dataclass, field

from jaxpt.errors import JaxptError, nearest
from jaxpt.reshape.target import Target

TRANSFORMS = ("subclone", "random_init", "prune_depth", "drop_layers", "merge_kv")


@dataclass(frozen=True)
class TransformConfig:
    """One transform; options that its `name` does not read keep their defaults.

    subclone: `selection, scaling, depth, compensate, ridge`. prune_depth: `by, rescale`. drop_layers: `drop`.
    merge_kv: `how`. `subclone`, `random_init`, `prune_depth` and `merge_kv` read the target.
    """

    name: str
    selection: str = "importance"
    scaling: str = "none"
    depth: str | None = None
    compensate: bool = False
    ridge: float = 1e-3
    by: str = "influence"
    rescale: bool = True
    drop: tuple[int, ...] = ()
    how: str = "mean"

    def __post_init__(self) -> None:
        if self.name not in TRANSFORMS:
            raise JaxptError(
                f"config.transforms: {self.name!r} is no transform{nearest(self.name, TRANSFORMS)}; there are "
                f"{', '.join(TRANSFORMS)}"
            )


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
class ReshapeConfig:
    """All of a reshape. `scores`: a file to read scores from, or to keep them in where it is not there yet."""

    transforms: tuple[TransformConfig, ...]
    target: Target = field(default_factory=Target)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    scores: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.transforms:
            raise JaxptError("config.transforms is empty; give at least one transform")
        for name in ("batches", "batch_size"):
            if getattr(self.calibration, name) < 1:
                raise JaxptError(
                    f"config.calibration.{name} is {getattr(self.calibration, name)}, it must be at least 1"
                )
