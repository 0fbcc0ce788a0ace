"""The keys of `configs/reshape/*`: which transforms, to which shape, scored on what."""

import itertools
from dataclasses import dataclass, field

from jaxpt.errors import JaxptError, nearest
from jaxpt.reshape.target import Target
from jaxpt.reshape.upcycle import Upcycling

TRANSFORMS = (
    "subclone",
    "random_init",
    "prune_depth",
    "drop_layers",
    "merge_kv",
    "grow_width",
    "grow_depth",
    "upcycle",
    "average_experts",
)


@dataclass(frozen=True)
class TransformConfig:
    """One transform; options that its `name` does not read keep their defaults.

    subclone: `selection, scaling, depth, compensate, ridge`. prune_depth: `by, rescale`. drop_layers: `drop`.
    merge_kv: `how` (mean, select). grow_width: `how` (pad, duplicate, fpi, aki), `fresh, noise`. grow_depth: `how`
    (llama_pro, stack, interpolate, depth_up_scale). upcycle: `mixture`, and of which layers: `layers` by number,
    else every `every`-th of those behind the first `dense_first`. All but `drop_layers`, `upcycle` and
    `average_experts` read the target.
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
    how: str | None = None
    fresh: bool = True
    noise: float = 0.0
    mixture: Upcycling | None = None
    layers: tuple[int, ...] = ()
    every: int = 1
    dense_first: int = 0

    def __post_init__(self) -> None:
        if self.name not in TRANSFORMS:
            raise JaxptError(
                f"config.transforms: {self.name!r} is no transform{nearest(self.name, TRANSFORMS)}; there are "
                f"{', '.join(TRANSFORMS)}"
            )
        if self.name == "upcycle" and self.mixture is None:
            raise JaxptError("config.transforms: upcycle lacks mixture, e.g. {'experts': 8, 'experts_per_token': 2}")
        if self.every < 1 or self.dense_first < 0:
            raise JaxptError("config.transforms: every must be at least 1 and dense_first at least 0")


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


@dataclass(frozen=True)
class ReshapeConfig:
    """All of a reshape. `scores`: a file to read scores from, or to keep them in where it is not there yet."""

    transforms: tuple[TransformConfig, ...]
    target: Target = field(default_factory=Target)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    scores: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.transforms:
            raise JaxptError("config.transforms is empty; give at least one transform")
        for part, name in itertools.product(("calibration", "held_out"), ("batches", "batch_size")):
            if (value := getattr(getattr(self, part), name)) < 1:
                raise JaxptError(f"config.{part}.{name} is {value}, it must be at least 1")
