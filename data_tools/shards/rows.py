"""Read records to learn from them: with progress, reporting what could not be read."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_tools.io.readers import BytesRead, Problem, read
from data_tools.shards.records import FileShard
from jaxpt.cli.terminal import progress
from jaxpt.data.left_out import FEW
from jaxpt.data.left_out import LIMIT as LIMIT  # of `report_quarantine`, as the commands name it
from jaxpt.errors import JaxptError

LIMIT_HELP = "share of the records in quarantine above which the exit code is not 0"


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
            for entry in read(shard.path, shard.field, position, shard.caps):
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


def report_quarantine(manifests: Sequence[Mapping[str, Any]], output: str | Path, field: str, limit: float) -> None:
    """Prints how many records of the input could not be read and where they are kept. Comes last in a command.

    Args:
        manifests: of the shards, each with `name`, `rows` and `quarantined`.
        output: the command's folder.
        field: where the text is.
        limit: share of the records; a single shard counts from `FEW` records in quarantine on.

    Raises:
        JaxptError: there was not a single record, or more than `limit` is in quarantine.
    """
    rows, bad = sum(m["rows"] for m in manifests), sum(m["quarantined"] for m in manifests)
    if not bad:
        return
    if not rows:
        raise JaxptError(
            f"none of {bad:,} lines is a record with a string field {field!r}; name the text's field by --text_field "
            f"(reasons: {output}/quarantine)"
        )
    print(f"not records: {bad:,} of {rows + bad:,} lines, see {output}/quarantine")
    over = [m for m in manifests if m["quarantined"] > max(limit * (m["rows"] + m["quarantined"]), FEW - 1)]
    if not over and (bad < FEW or bad <= limit * (rows + bad)):
        return
    what, first = "all shards together", {"rows": rows, "quarantined": bad}
    if over:
        first = over[0]
        what = first["name"] + (f" (and {len(over) - 1:,} more shards)" if len(over) > 1 else "")
    share = first["quarantined"] / (first["rows"] + first["quarantined"])
    raise JaxptError(
        f"{share:.1%} of the records of {what} could not be read (--quarantine_limit={limit:g}); the rest is written: "
        f"see {output}/quarantine, then mend the input or raise the limit"
    )


def check_limit(limit: float) -> None:
    """Raises JaxptError for a `--quarantine_limit` that is no share."""
    if not 0 <= limit <= 1:
        raise JaxptError(f"--quarantine_limit={limit} must be a share from 0 to 1")
