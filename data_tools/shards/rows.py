"""Read records to learn from them: with progress, reporting what could not be read."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.io.readers import BytesRead, Problem, read
from data_tools.shards.records import FileShard
from jaxpt.cli.terminal import progress
from jaxpt.errors import JaxptError


def rows_of(
    shards: Sequence[FileShard],
    what: str,
    warn: bool = True,
    quarantine: Callable[[FileShard, Problem], None] | None = None,
) -> Iterator[tuple[FileShard, dict]]:
    """Yields each valid record beside its shard, its text as `text`.

    Lines that are not records are counted and reported on standard error, with the place of the first.

    Args:
        shards: files.
        what: what the records are for, as the progress bar names it.
        warn: whether lines that are not records are reported here.
        quarantine: is given each line that is not a record, where these are kept.
    """
    bad, first = 0, ""
    with progress(sum(s.size for s in shards), what, "B", scale=True) as bar:
        for shard in shards:
            position, before = BytesRead(), 0
            for entry in read(shard.path, shard.field, position, shard.longest):
                bar.update(position.bytes - before)
                before = position.bytes
                if isinstance(entry, Problem):
                    bad, first = bad + 1, first or f"{shard.path}, line {entry.place}: {entry.reason}"
                    if quarantine:
                        quarantine(shard, entry)
                    continue
                row = entry[1]
                yield shard, row if shard.field == "text" else {**row, "text": row[shard.field]}
            bar.update(shard.size - before)
    if bad and warn:
        print(f"warning: {what}: not records, left out: {bad:,} lines (first: {first})", file=sys.stderr)


def report_quarantine(manifests: Sequence[Mapping[str, Any]], output: str | Path, field: str) -> None:
    """Prints how many lines of the input were not records and where they are kept.

    Raises:
        JaxptError: there was not a single record.
    """
    rows, bad = sum(m["rows"] for m in manifests), sum(m["quarantined"] for m in manifests)
    if bad and not rows:
        raise JaxptError(
            f"none of {bad:,} lines is a record with a string field {field!r}; name the text's field by --text_field "
            f"(reasons: {output}/quarantine)"
        )
    if bad:
        print(f"not records: {bad:,} of {rows + bad:,} lines, see {output}/quarantine")
