"""What a transform is to a config: a name, options of its own, and the rewrites that it asks for.

Each transform is a frozen dataclass in a file of `jaxpt/reshape/transforms/`, or the user's own `module:Class`; what
it computes with (`select`, `pad`, `subclone_rewrite` and so on) are pure functions of this room.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxpt.config.choice import Choice, find, names
from jaxpt.models import ModelConfig
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices

# until b398682 every transform had all of these options, and stored configs hold them with these values
ALL_OPTIONS_THEN: dict[str, Any] = {
    "selection": "importance",
    "scaling": "none",
    "depth": None,
    "compensate": False,
    "ridge": 1e-3,
    "by": "influence",
    "rescale": True,
    "drop": (),
    "how": None,
    "fresh": True,
    "noise": 0.0,
    "mixture": None,
    "layers": (),
    "every": 1,
    "dense_first": 0,
}


@dataclass(frozen=True)
class Transform(Choice, kind="transform", room="jaxpt.reshape.transforms"):
    """One step of a reshape; its fields are its options."""

    @property
    def reads_scores(self) -> bool:
        """Whether it ranks positions or layers by `setting.score`, so that scores can be stored and drawn."""
        return False

    @property
    def reads_masks(self) -> bool:
        """Whether it cuts by the masks of the run that the model comes from, as `setting.masks`."""
        return False

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses what cannot be done with a model of shape `config`, before anything is scored or computed.

        Raises:
            JaxptError: an impossible target, or calibration data that is missing.
        """

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig | None:
        """Returns the model's config afterwards, before anything is scored; None where only the rewrites show it.

        Which layers stay may be a guess, how many may not.
        """
        return None

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns what is to be done to `source`, to be applied in order.

        Raises:
            JaxptError: what only shows in the weights or the data.
        """
        raise NotImplementedError(f"{self.name} defines no rewrites(source, setting)")

    @classmethod
    def of_today(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leaves out options of other transforms, and those that said None for a default, as written at b398682."""
        name = values.get("name")
        if name not in names(cls):
            return values
        own = find(cls, name, "name").__dataclass_fields__
        return {
            key: value
            for key, value in values.items()
            if not _is_old_default(key, value) or (key in own and value is not None)
        }


def _is_old_default(key: str, value: Any) -> bool:
    """Whether an option has the value that earlier versions gave it by default."""
    return key in ALL_OPTIONS_THEN and (tuple(value) if isinstance(value, list) else value) == ALL_OPTIONS_THEN[key]
