"""Documents that earlier runs have seen, by id: what a source packed again, or at another length, leaves out."""

import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from jaxpt.data.ledger import Ledger, Used
from jaxpt.data.packed import PackedSource
from jaxpt.data.permutation import Permutation
from jaxpt.errors import JaxptError

BLOCK = 2**18  # rows looked up together


def documents_used(source: PackedSource, entries: Iterable[Used]) -> np.ndarray:
    """Returns the ids of the documents of `source` that the rows of `entries` touch, uint64 `[n, 2]`.

    A partly consumed document counts as seen.
    """
    touched = np.zeros(source.documents, bool)
    offsets, numbers = source.column("row_segments"), source.column("segment_document")
    for entry in entries:
        permute = Permutation(source.rows, f"{entry.key}:{entry.epoch}")
        for positions in _positions(entry):
            rows = permute(positions)
            start, stop = offsets[rows].astype(np.int64), offsets[rows + 1].astype(np.int64)
            size = stop - start
            begin = np.repeat(start - np.concatenate([[0], np.cumsum(size)[:-1]]), size)
            touched[numbers[begin + np.arange(size.sum())]] = True
    return np.asarray(source.column("document_id")[np.flatnonzero(touched)])


def uses_in_other_orders(source: PackedSource, ledger: Ledger, key: str) -> np.ndarray | None:
    """Returns how often each row of `source` was taken in orders other than `key`, int64 `[rows]`; None for never."""
    entries = [e for e in ledger.entries if e.fingerprint == source.fingerprint and e.key != key]
    if not entries:
        return None
    uses = np.zeros(source.rows, np.int64)
    for entry in entries:
        permute = Permutation(source.rows, f"{entry.key}:{entry.epoch}")
        for positions in _positions(entry):
            uses[permute(positions)] += 1
    return uses


def _positions(entry: Used) -> Iterator[np.ndarray]:
    """The positions of an entry, in blocks."""
    block = BLOCK * entry.every
    for first in range(entry.start, entry.stop, block):
        yield np.arange(first, min(first + block, entry.stop), entry.every)


def rows_with(source: PackedSource, documents: np.ndarray) -> np.ndarray | None:
    """Returns which rows of `source` hold a segment of one of `documents` `[n, 2]`, bool `[rows]`; None if none can."""
    if not len(documents):
        return None
    ids = np.asarray(source.column("document_id"))
    known = np.isin(ids[:, 0], documents[:, 0])
    maybe = np.flatnonzero(known)  # equal first halves; the second decides
    pair = np.dtype([("a", "<u8"), ("b", "<u8")])
    wanted = np.ascontiguousarray(documents[np.isin(documents[:, 0], ids[maybe, 0])]).view(pair).ravel()
    known[maybe] = np.isin(np.ascontiguousarray(ids[maybe]).view(pair).ravel(), wanted)
    hit = known[np.asarray(source.column("segment_document"))]
    offsets = np.asarray(source.column("row_segments")).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(hit)])
    return total[offsets[1:]] > total[offsets[:-1]]


def seen_documents(
    ledger: Ledger, sources: Mapping[str, PackedSource], keys: Mapping[str, str], *, resumed: bool = False
) -> dict[str, np.ndarray]:
    """Returns for each source the ids of the documents that earlier runs saw elsewhere than in its own order.

    Rows that were taken of the same source in the same order are left out as rows (`SourceOrder`), and their documents
    are not looked for: a document that lies in several rows may go on where it stopped.

    Args:
        ledger: rows taken by earlier runs.
        sources: this run's, opened.
        keys: the key of each source's order (`order_key`).
        resumed: the run goes on, so that what it leaves out is decided already.

    Raises:
        JaxptError: a source of the ledger that is no longer where it was, so that its documents cannot be known.
    """
    opened = {source.fingerprint: source for source in sources.values()}
    groups: dict[tuple[str, str], list[Used]] = {}
    for entry in ledger.entries:
        groups.setdefault((entry.fingerprint, entry.key), []).append(entry)
    ids: dict[tuple[str, str], np.ndarray] = {}
    out = {}
    for name, source in sources.items():
        parts = [np.zeros((0, 2), np.uint64)]
        for group, entries in groups.items():
            if group == (source.fingerprint, keys[name]):
                continue
            if group not in ids:
                if group[0] not in opened:
                    opened[group[0]] = _open(entries[0], resumed)
                ids[group] = documents_used(opened[group[0]], entries)
            parts.append(ids[group])
        out[name] = np.concatenate(parts)
    return out


def in_common(sources: Mapping[str, PackedSource]) -> list[tuple[str, str, int]]:
    """Returns pairs of sources of other row lengths and how many documents both hold: text packed twice for one run.

    Documents are compared by the first half of their ids.
    """
    out = []
    for (a, first), (b, second) in itertools.combinations(sources.items(), 2):
        if first.sequence_length != second.sequence_length:
            both = np.intersect1d(first.column("document_id")[:, 0], second.column("document_id")[:, 0])
            out += [(a, b, len(both))] if len(both) else []
    return out


def _open(entry: Used, resumed: bool) -> PackedSource:
    way_out = "restore it, or set --config.leave_out_seen=False to leave out only rows of unchanged sources"
    way_out = "restore it to go on with this run" if resumed else way_out
    what = f"the run before this one used source {entry.name} ({entry.path})"
    try:
        source = PackedSource.open(entry.path)
    except JaxptError as error:
        raise JaxptError(f"{what}, which cannot be read, so that its documents are not known; {way_out}") from error
    if source.fingerprint != entry.fingerprint:
        now, before = source.fingerprint[:12], entry.fingerprint[:12]
        raise JaxptError(f"{what}, which has changed since (content {now}, was {before}); {way_out}")
    return source
