"""Nothing besides the limit of the global norm that every optimizer has."""

from dataclasses import dataclass

from jaxpt.optim.clipping import Clipping


@dataclass(frozen=True)
class GlobalNormOnly(Clipping):
    """`optimizer.clip_norm` alone."""
