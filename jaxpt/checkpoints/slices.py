"""The parameters of a checkpoint, one layer at a time: what is read is compared with the digests of its `run` item."""

from pathlib import Path

import numpy as np
import tensorstore as ts

from jaxpt.bundles.digest import all_finite, slice_digest
from jaxpt.checkpoints.checkpoints import model_of
from jaxpt.checkpoints.run_item import RunItem
from jaxpt.errors import JaxptError
from jaxpt.models.specs import flatten, param_specs


class CheckpointSlices:
    """A finished checkpoint as something that gives its parameters slice by slice, float32, on the host."""

    def __init__(self, run: Path, step: int, facts: RunItem):
        """Opens `checkpoints/STEP` of the run directory `run`, whose `run` item is `facts`."""
        self.config = model_of(facts)
        self._folder = (Path(run) / "checkpoints" / str(step)).absolute()
        self._specs, self._digests = flatten(param_specs(self.config)), facts["digests"]
        self._open: dict[str, ts.TensorStore] = {}

    def read(self, path: str, layer: int | None = None) -> np.ndarray:
        """Returns one layer of parameter `path`, or the whole of one that has no layers.

        Raises:
            JaxptError: it cannot be read, or is not what was saved.
        """
        try:
            if path not in self._open:
                self._open[path] = self._array(path)
            array = self._open[path]
            value = np.asarray((array if layer is None else array[layer]).read().result())
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise JaxptError(f"{self._folder}: {path} cannot be read ({reason}); use another checkpoint") from error
        if slice_digest(value) != self._digests[path][layer or 0] or not all_finite(value):
            where = path if layer is None else f"{path}, layer {layer}"
            raise JaxptError(f"{self._folder} is damaged: the values of {where} are not those that were saved; use "
                             f"another checkpoint")  # fmt: skip
        return value

    def _array(self, path: str) -> ts.TensorStore:
        """The array as Orbax stores it: zarr in an OCDBT database of the item, its path with dots."""
        base = f"file://{self._folder / 'params'}/"
        kvstore = {"driver": "ocdbt", "base": base, "path": f"{path.replace('/', '.')}/"}
        array = ts.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result()
        if array.shape != self._specs[path].shape:
            raise ValueError(f"it has the shape {array.shape}, the model's is {self._specs[path].shape}")
        return array
