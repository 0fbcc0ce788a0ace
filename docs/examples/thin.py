"""A transform: keeps one layer of every `every`.

    PYTHONPATH=docs/examples jaxpt reshape --config=thin_config.py --from=BUNDLE --to=SMALLER

with `get_config()` of `thin_config.py` returning `{"transforms": [{"name": "thin:Thin", "every": 2}]}`.
"""

from dataclasses import dataclass

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig
from jaxpt.reshape.depth import drop_layers
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class Thin(Transform):
    """Keeps layers 0, every, 2 · every, …; the target is not read."""

    every: int = option(2, "of so many layers one stays")

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses what cannot be done, before anything is computed."""
        if self.every < 2:
            raise JaxptError(f"config.transforms: thin.every is {self.every}, it must be at least 2")

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """A rewrite says what to do; it is applied in memory, on a mesh, or slice by slice, moments included."""
        gone = [layer for layer in range(len(source.config.layers)) if layer % self.every]
        return [drop_layers(source.config, gone).with_entry(op="thin")]
