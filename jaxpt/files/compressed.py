"""Files of gzip members or zstd frames as one stream: read by the fastest kept codecs, an early end is an error."""

import gzip
import io
import zlib
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa
from isal import igzip, isal_zlib

PACKED = ("", ".gz", ".zst")
# What reading a damaged archive raises.
DAMAGED: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, cast(type[Exception], isal_zlib.error))


def decompressed(raw: IO[bytes], name: str) -> BinaryIO:
    """Returns the content of a file of any number of members, in bounded memory, by lines or blocks.

    Args:
        raw: the file as it lies on disk.
        name: says by its end how the file is packed: `.gz`, `.zst`, or not at all.

    Raises:
        EOFError, zlib.error, gzip.BadGzipFile, isal_zlib.error: on reading, where the archive is damaged or cut off.
    """
    stream: Any = raw
    if name.endswith(".gz"):
        stream = igzip.IGzipFile(fileobj=raw)
    elif name.endswith(".zst"):
        stream = _Zstd(raw)
    return cast(BinaryIO, io.BufferedReader(stream, 1 << 16))


class _Zstd(io.RawIOBase):
    """Arrow's stream: that of `zstandard` reads a file that is cut off as if it ended there."""

    def __init__(self, raw: IO[bytes]):
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except OSError as error:
            if error.errno is not None:  # of the disk
                raise
            raise EOFError(" ".join(str(error).split())) from error
