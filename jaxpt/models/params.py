"""Types of what passes between the rooms: parameters as nested dicts of arrays, and their shardings."""

from collections.abc import Mapping
from types import EllipsisType

import jax
import numpy as np
from jax.sharding import Sharding

Array = jax.Array | np.ndarray
Params = Mapping[str, "Array | Params"]  # blocks are stacked along a leading `layers` axis
Shardings = Mapping[str, "Sharding | Shardings"]  # same structure as the parameters
IndexPart = slice | int | EllipsisType
ArrayIndex = IndexPart | tuple[IndexPart, ...]  # what cuts a part out of an array
