"""Random access to the records of ArrayRecord shards: readers opened as they are needed, no threads for local files."""

import resource
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from jaxpt.data.remote import RangedReader, is_remote
from jaxpt.errors import JaxptError

LOCAL = "readahead_buffer_size:0,max_parallelism:0"  # what array_record's own documentation names for random access
BUFFER = 32_768  # bytes a reader reads at once
THREADS = 16  # shards read at once on a remote file system, where waiting is what takes the time


class Shards:
    """The records of several files as one sequence, counted by what the writer noted."""

    def __init__(self, files: Sequence[str], counts: Sequence[int]):
        """Opens nothing yet.

        Args:
            files: local paths, or addresses on any file system fsspec knows.
            counts: records in each.
        """
        self.files, self.counts = list(files), list(counts)
        self._offset = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        self._readers: list[ArrayRecordReader | RangedReader | None] = [None] * len(self.files)
        self._locks = [threading.Lock() for _ in self.files]
        self._pool = ThreadPoolExecutor(THREADS) if any(map(is_remote, self.files)) else None

    def __len__(self) -> int:
        return int(self._offset[-1])

    def read(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the records `rows`, in their order.

        Raises:
            JaxptError: a file that cannot be read, or that holds another number of records than was noted.
            IndexError: a row there is not.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise IndexError(f"rows {int(rows.min())} … {int(rows.max())} of {len(self)}")
        shard = np.searchsorted(self._offset, rows, side="right") - 1
        groups = [(int(s), np.flatnonzero(shard == s)) for s in dict.fromkeys(shard.tolist())]

        def one(group: tuple[int, np.ndarray]) -> list[bytes]:
            s, at = group
            reader, wanted = self._reader(s), (rows[at] - self._offset[s]).tolist()
            try:
                return reader.read(wanted)
            except (RuntimeError, ValueError, OSError) as e:
                raise JaxptError(f"{self.files[s]}: records cannot be read ({' '.join(str(e).split())[:120]})") from e

        out: list[bytes] = [b""] * len(rows)
        for (_, at), records in zip(groups, (self._pool.map if self._pool else map)(one, groups)):
            for i, record in zip(at, records):
                out[i] = record
        return out

    def _reader(self, s: int) -> ArrayRecordReader | RangedReader:
        reader = self._readers[s]
        if reader is None:
            with self._locks[s]:
                reader = self._readers[s] = self._readers[s] or self._open(s)
        return reader

    def _open(self, s: int) -> ArrayRecordReader | RangedReader:
        _allow_open_files()
        try:
            if is_remote(self.files[s]):
                reader = RangedReader(self.files[s])
            else:
                reader = ArrayRecordReader(self.files[s], options=LOCAL, file_reader_buffer_size=BUFFER)
            count = reader.num_records()
        except (RuntimeError, ValueError, OSError) as e:
            raise JaxptError(f"{self.files[s]} cannot be read ({' '.join(str(e).split())[:120]}); pack again") from e
        if count != self.counts[s]:
            raise JaxptError(
                f"{self.files[s]} holds {count:,} records, source.json says {self.counts[s]:,}; pack again"
            )
        return reader


def _allow_open_files() -> None:
    """Raises this process's limit of open files to what the system lets it have: every shard in use takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
