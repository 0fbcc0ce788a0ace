"""A model's parameters as they pass between the rooms: a nested dict of arrays, as the axis table declares it."""

from collections.abc import Mapping

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = Mapping[str, "Array | Params"]  # blocks are stacked along a leading `layers` axis
