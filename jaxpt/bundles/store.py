"""One parameter on disk: a zarr3 array whose chunks are single layers (and experts), each with a checksum."""

import math
from pathlib import Path

import numpy as np
import tensorstore as ts

from jaxpt.models.params import ArrayIndex
from jaxpt.models.specs import ParamSpec

CHUNK_BYTES = 128 * 2**20  # a larger slice is split along the dimension that FSDP splits


def _spec(folder: Path) -> dict[str, object]:
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder)},
        "store_data_equal_to_fill_value": True,  # zeros are data: else a lost chunk would read as zeros
        "fill_missing_data_reads": False,
    }


def chunk_shape(spec: ParamSpec, itemsize: int) -> tuple[int, ...]:
    """Returns the chunk: one layer, of it one expert, split along `embed` into parts of at most `CHUNK_BYTES`."""
    pieces = len(spec.pieces)
    shape = [1] * pieces + list(spec.shape[pieces:])
    if "embed" in spec.axes:
        dim = spec.axes.index("embed")
        parts = math.ceil(math.prod(shape) * itemsize / CHUNK_BYTES)
        shape[dim] = math.ceil(shape[dim] / parts)
    return tuple(shape)


def metadata_file(leaf: str) -> str:
    """Returns the name, within a bundle, of the file that says how a parameter's chunks are to be read."""
    return f"params/{leaf}/zarr.json"


def create(folder: Path, spec: ParamSpec, dtype: str) -> ts.TensorStore:
    """Makes an empty array for a parameter; every chunk carries a CRC32C, so that a flipped bit fails the read."""
    metadata = {
        "shape": list(spec.shape),
        "data_type": dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(chunk_shape(spec, 2 if dtype != "float32" else 4))},
        },
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "dimension_names": list(spec.axes),
    }
    return ts.open({**_spec(folder), "metadata": metadata}, create=True, delete_existing=True).result()


def open_array(folder: Path) -> ts.TensorStore:
    """Opens a parameter for reading. Raises ValueError where there is none."""
    return ts.open(_spec(folder), open=True, read=True).result()


def read(array: ts.TensorStore, index: ArrayIndex = ...) -> np.ndarray:
    """Reads part of a parameter. Raises ValueError where a chunk is damaged or missing."""
    part = array[index]
    if part.rank and not all(part.shape):
        return np.empty(part.shape, part.dtype.numpy_dtype)
    return np.asarray(part.read().result())
