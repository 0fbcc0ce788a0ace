"""The safetensors format, read and written one tensor at a time: no tensor but the one at hand is in memory."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import ml_dtypes
import numpy as np

from jaxpt.errors import JaxptError, short
from jaxpt.files.strangers import check_file, parse_json

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("<f4"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype("<f2"),
}
HEADER = 100_000_000  # bytes at most, as the library that writes these files has it
DIMENSIONS = 8  # of a tensor at most
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorEntry(TypedDict):
    """What a file's header says of one tensor: where its bytes lie among the data, `[start, stop)`."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


class SafetensorsFile:
    """A file's header; tensors are mapped, not read, until they are used."""

    def __init__(self, path: Path):
        """Reads and checks the header.

        Raises:
            JaxptError: not a safetensors file, truncated, or holding other bytes than its header says.
        """
        self.path = path
        check_file(path.parent, path)
        size = path.stat().st_size
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if size < 8 or length > size - 8:
                raise JaxptError(f"{path} is truncated or no safetensors file ({size:,} bytes)")
            if length > HEADER:
                raise JaxptError(f"{path} is not a safetensors file: a header of {length:,} bytes")
            header = parse_json(f.read(length), f"{path} is not a safetensors file: its header")
        if not isinstance(header, dict):
            raise JaxptError(f"{path} is not a safetensors file: its header is not a dictionary of tensors")
        header.pop("__metadata__", None)
        self.header: dict[str, TensorEntry] = header
        self._base = 8 + length
        want = _end(path, header) + self._base
        if size != want:
            raise JaxptError(
                f"{path} has {size:,} bytes, its header asks for {want:,}: truncated or damaged; fetch it again"
            )

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return tuple(self.header[name]["shape"])

    def dtype(self, name: str) -> str:
        """Returns a tensor's dtype as numpy names it.

        Raises:
            JaxptError: a dtype that is not a float of 16 or 32 bits.
        """
        kind = self.header[name]["dtype"]
        if kind not in DTYPES:
            raise JaxptError(
                f"{self.path}: {name} is {kind[:20]}; only {', '.join(DTYPES)} are read (quantised weights are not)"
            )
        return DTYPES[kind].name

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor as a memory map."""
        start, stop = self.header[name]["data_offsets"]
        dtype, shape = DTYPES[self.header[name]["dtype"]], self.shape(name)
        if stop == start:
            return np.empty(shape, dtype)
        return np.memmap(self.path, np.uint8, "r", self._base + start, (stop - start,)).view(dtype).reshape(shape)


def _end(path: Path, header: Mapping[str, Any]) -> int:
    """Where the data of a header's tensors ends, which must lie side by side from 0 on."""
    for name, entry in header.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            raise JaxptError(f"{path}: {name[:100]} has no dtype in the header; the file is damaged, fetch it again")
        numbers: list[Any] = [entry.get("shape"), entry.get("data_offsets")]
        if not all(isinstance(n, list) and all(type(i) is int and i >= 0 for i in n) for n in numbers):
            raise JaxptError(
                f"{path}: {name[:100]} has no shape or place in the header; the file is damaged, fetch it again"
            )
        if len(entry["shape"]) > DIMENSIONS:
            raise JaxptError(
                f"{path}: {name[:100]} has {len(entry['shape']):,} dimensions; the file is damaged, fetch it again"
            )
        if len(entry["data_offsets"]) != 2:
            raise JaxptError(f"{path}: {name} has {len(numbers[1])} data_offsets; the file is damaged, fetch it again")
    at = 0
    for (start, stop), name in sorted((entry["data_offsets"], name) for name, entry in header.items()):
        if start != at or stop < start:
            raise JaxptError(f"{path}: {name} does not begin where the tensor before it ends; fetch the file again")
        kind, shape = header[name]["dtype"], header[name]["shape"]
        if kind in DTYPES and stop - start != math.prod(shape) * DTYPES[kind].itemsize:
            raise JaxptError(f"{path}: {name}, {kind} {short(shape)}, has {stop - start:,} bytes; fetch the file again")
        at = stop
    return at


Planned = Sequence[tuple[str, tuple[int, ...], str]]  # name, shape, numpy dtype name


def write_file(path: Path, planned: Planned, tensors: Iterator[np.ndarray]) -> None:
    """Writes a file whose tensors come one by one, in the order of `planned`."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape, dtype in planned:
        kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        header[name] = {"dtype": _NAMES[kind], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for (name, shape, dtype), tensor in zip(planned, tensors, strict=True):
            if tensor.shape != shape or tensor.dtype.name != dtype:
                raise JaxptError(f"{name}: {tensor.dtype.name} {tensor.shape}, planned as {dtype} {shape}")
            f.write(np.ascontiguousarray(tensor).view(np.uint8).data)


def shards(planned: Planned, limit: int) -> list[Planned]:
    """Returns `planned` in consecutive parts of at most `limit` bytes (a larger tensor is a part of its own)."""
    parts: list[list[Any]] = [[]]
    size = 0
    for entry in planned:
        n = math.prod(entry[1]) * (4 if entry[2] == "float32" else 2)
        if parts[-1] and size + n > limit:
            parts.append([])
            size = 0
        parts[-1].append(entry)
        size += n
    return [p for p in parts if p]


def index_of(parts: Mapping[str, Planned]) -> dict[str, object]:
    """Returns the content of `model.safetensors.index.json` for file name to its tensors."""
    total = sum(math.prod(s) * (4 if d == "float32" else 2) for p in parts.values() for _, s, d in p)
    return {"metadata": {"total_size": total}, "weight_map": {n: f for f, p in parts.items() for n, _, _ in p}}
