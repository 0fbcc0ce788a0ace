"""The records of WARC archives: each is yielded or reported as lost with its place, and reading goes on behind it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from data_tools.io.archives import ArchivePart

START = b"WARC/"
HEAD = 1 << 20  # bytes of a record's header, at most
NEXT = re.compile(rb"(?<!\w)WARC/\d+\.\d+\r?\n(?=[\w-]+:)")  # where a record begins
TAIL = 64  # bytes that may hold the beginning of a record, not yet whole
END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
BLANK = re.compile(rb"[\r\n]*")
END = ArchivePart(-1)


@dataclass(frozen=True)
class Record:
    """One record: where it lies, its header by names in lower case, and its block."""

    offset: int  # byte of the file at which it, or the member that holds it, begins
    header: Mapping[str, str]
    block: bytes


@dataclass(frozen=True)
class Lost:
    """A part of the archive that is not a record, or half of one."""

    offset: int
    reason: str
    final: bool = False  # the file ends here in the middle of a record


def fields(lines: bytes) -> dict[str, str]:
    """Returns the fields of a header by their names in lower case; values of one name are joined by ", "."""
    try:
        text = lines.decode("utf-8")
    except UnicodeDecodeError:
        text = lines.decode("latin-1")
    out: dict[str, str] = {}
    for line in re.sub(r"\r?\n[ \t]+", " ", text).split("\n"):
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if colon and name:
            out[name] = f"{out[name]}, {value}" if name in out else value
    return out


def records(pieces: Iterator[ArchivePart], longest: int, compressed: bool) -> Iterator[Record | Lost]:
    """Yields the records of an archive in its order, and what of it is lost.

    Args:
        pieces: the content.
        longest: bytes of a record, at most; a longer one is lost.
        compressed: whether offsets are those of members.

    Raises:
        EOFError: the archive ends early, is damaged up to its end, or holds no record at all.
    """
    window, read, lost = _Window(pieces, compressed), 0, 0
    while True:
        window.skip_blank()
        if window.data:
            item = _next(window, longest)
        elif damage := window.damage():
            item = Lost(damage.offset, damage.damage, damage.final)
        elif window.pass_stop():
            continue
        else:
            break
        if isinstance(item, Lost) and item.final:
            raise EOFError(f"{item.reason}; {read:,} records come before it")
        read, lost = read + isinstance(item, Record), lost + isinstance(item, Lost)
        yield item
    if lost and not read:
        raise EOFError("there is no WARC record in it")


def _next(window: "_Window", longest: int) -> Record | Lost:
    place = window.place
    if not window.fill(len(START)) and START.startswith(bytes(window.data)):
        return _broken(window, place, len(window.data), "the record's header has no end", cut=True)
    if not window.data.startswith(START):
        return Lost(place, f"{window.skip_to_record(1):,} bytes that are not a record")
    head = window.find_end_of_head()
    if head is None:
        return _broken(window, place, len(START), "the record's header has no end", cut=True)
    header = fields(bytes(window.data[:head]))
    size = header.get("content-length", "")
    if not (size.isascii() and size.isdigit() and len(size) < 19):
        return _broken(window, place, head, f"the record's Content-Length is {size[:20]!r}")
    length = int(size)
    if length > longest:
        missing = window.skip(head + length)
        if missing and window.is_over:  # other records may have been skipped
            return Lost(place, f"a record of {length:,} bytes begins at byte {place:,}, {missing:,} are missing", True)
        return _broken(window, place, 0, f"a record of {length:,} bytes, {longest:,} are read", cut=missing > 0)
    if not window.fill(head + length):
        there = f"{len(window.data) - head:,} of a record's {length:,} bytes are there"
        return _broken(window, place, head, there, cut=True)
    tail = window.find_nonblank(head + length)
    if tail == len(window.data):  # up to the end of its member, or of the archive
        if damage := window.damage(inside=True):
            window.skip(tail)
            return Lost(place, damage.damage, damage.final)
    elif not (window.data.startswith(START, tail) or window.data.count(b"\n", head + length, tail) > 1):
        return _broken(window, place, head, f"the record is not of {length:,} bytes, as its header says")
    record = Record(place, header, bytes(window.data[head : head + length]))
    window.skip(tail)
    return record


def _broken(window: "_Window", place: int, start: int, reason: str, cut: bool = False) -> Lost:
    """Goes on to the next record behind byte `start`, which may lie within this one; returns what is wrong with this.

    Args:
        window: the content.
        place: of the broken record.
        start: bytes of it that are certainly its own.
        reason: what is wrong with it.
        cut: its end is missing.
    """
    skipped = window.skip_to_record(start) if start else 0
    if cut and not window.data:
        if damage := window.damage(inside=True):
            return Lost(place, damage.damage, damage.final)
        if window.is_over and not window.compressed:  # a member that is whole was not cut off
            return Lost(place, f"{reason}, at byte {place:,}, where the file ends", final=True)
    return Lost(place, reason + f"; reading goes on {skipped:,} bytes later" * bool(skipped))


class _Window:
    """The content that comes next, up to where it stops: at a member with a new record, at damage, or at the end."""

    def __init__(self, pieces: Iterator[ArchivePart], compressed: bool):
        self.data = bytearray()
        self._pieces, self.compressed = pieces, compressed
        self._stop: ArchivePart | None = None
        self._origin = self._member = 0  # byte of the file where the first and the last member of the data begin
        self._skipped = 0  # bytes of the content that were skipped
        self._reported = False  # the damage at the stop

    @property
    def place(self) -> int:
        """Where the data begins, a byte of the file (of a compressed one: where its member begins)."""
        return self._origin if self.compressed else self._skipped

    @property
    def is_over(self) -> bool:
        """Whether the file has ended."""
        return self._stop is END

    def _more(self) -> bool:
        if self._stop is None:
            piece = next(self._pieces, END)
            if piece is END or piece.damage or (piece.begins and piece.data.startswith(START)):
                self._stop = piece
            else:
                self._add(piece)
        return self._stop is None

    def _add(self, piece: ArchivePart) -> None:
        if not self.data:
            self._origin = piece.offset
        self._member = piece.offset
        self.data += piece.data

    def pass_stop(self) -> bool:
        """Goes on behind a stop; returns False at the end."""
        stop = self._stop or END
        if stop is END:
            return False
        self._stop, self._reported = None, False
        self._add(stop)
        return True

    def damage(self, inside: bool = False) -> ArchivePart | None:
        """Returns the damage at which the content stops, once; with `inside`, only that of the data's own member."""
        stop = self._stop
        if stop is None or not stop.damage or self._reported:
            return None
        if inside and not (stop.inside and stop.offset == self._member):
            return None
        self._reported = True
        return stop

    def fill(self, size: int) -> bool:
        """Returns whether `size` bytes are there."""
        while len(self.data) < size:
            if not self._more():
                return False
        return True

    def skip(self, size: int) -> int:
        """Passes over `size` bytes; returns how many of them are missing."""
        while True:
            now = min(size, len(self.data))
            del self.data[:now]
            self._skipped, size = self._skipped + now, size - now
            if not size or not self._more():
                return size

    def skip_blank(self) -> None:
        """Passes over line ends."""
        while True:
            self.skip(BLANK.match(self.data).end())
            if self.data or not self._more():
                return

    def skip_to_record(self, size: int) -> int:
        """Passes over `size` bytes and on to where a record begins, or to the stop; returns how many bytes that was."""
        before = self._skipped
        self.skip(size)
        while not (match := NEXT.search(self.data)):
            self.skip(max(len(self.data) - TAIL, 0))
            if not self._more():
                self.skip(len(self.data))
                return self._skipped - before
        self.skip(match.start())
        return self._skipped - before

    def find_end_of_head(self) -> int | None:
        """Returns where the header ends, None where it does not."""
        at = 0
        while not (match := END_OF_HEAD.search(self.data, at)):
            at = max(len(self.data) - 3, 0)
            if at > HEAD or not self._more():
                return None
        return match.end()

    def find_nonblank(self, at: int) -> int:
        """Returns where the line ends from byte `at` on end."""
        while (at := BLANK.match(self.data, at).end()) == len(self.data) and self._more():
            pass
        self.fill(at + len(START))
        return at
