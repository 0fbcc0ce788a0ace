"""The content of archives of many members (gz, zst) or of none: damage is reported with its place and skipped."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import zstandard

BLOCK = 1 << 16  # bytes read at once
PIECE = 1 << 20  # bytes of content at once, at most (zst: what STEP bytes hold, 64 MB)
STEP = 1 << 11  # bytes of a zst frame that are decompressed at once
LOOK_BACK = 8 << 20  # bytes in which the member after a damaged one is looked for
PROBE = 1 << 12  # bytes of a member that show what it begins with
ERRORS = (zlib.error, zstandard.ZstdError)


@dataclass(frozen=True)
class ArchivePart:
    """Some content of an archive in its order, or damage in place of it."""

    offset: int  # byte of the file: where the data lies, or where its member begins
    data: bytes = b""
    begins: bool = False  # the first piece of a member
    damage: str = ""
    inside: bool = False  # of damage: a member of which pieces came before is broken
    final: bool = False  # of damage: what follows could not be read


class Member(Protocol):
    """Decompresses one member; `rest` is what follows it once it has `ended`."""

    ended: bool
    rest: bytes

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields what `data` holds, in pieces."""


class GzipMember:
    """A member of a gzip file."""

    magic = b"\x1f\x8b\x08"

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """As `Member.feed`."""
        full = True
        while (data or full) and not self._inflate.eof:
            out = self._inflate.decompress(data, PIECE)
            data, full = self._inflate.unconsumed_tail, len(out) == PIECE
            if out:
                yield out
        self.ended, self.rest = self._inflate.eof, self._inflate.unused_data


class ZstdFrame:
    """A frame of a zst file."""

    magic = b"\x28\xb5\x2f\xfd"

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self.ended, self.rest = False, b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """As `Member.feed`."""
        for at in range(0, len(data), STEP):
            out = self._frame.decompress(data[at : at + STEP])
            if out:
                yield out
            if self._frame.eof:
                self.ended, self.rest = True, self._frame.unused_data + data[at + STEP :]
                return


def pieces(file: BinaryIO, path: str, start: bytes) -> Iterator[ArchivePart]:
    """Yields the content of an archive, decompressed as its name says, in bounded memory.

    Args:
        file: the archive as it lies on disk, read from front to back.
        path: its name.
        start: what a member begins with after which reading goes on when one is damaged.
    """
    if path.endswith(".gz"):
        yield from _Archive(file, GzipMember, start).pieces()
    elif path.endswith(".zst"):
        yield from _Archive(file, ZstdFrame, start).pieces()
    else:
        offset = 0
        while block := file.read(BLOCK):
            yield ArchivePart(offset, block, begins=offset == 0)
            offset += len(block)


class _Archive:
    """Reads members; keeps the last bytes read, in which the next member is looked for when one is damaged."""

    def __init__(self, file: BinaryIO, new: Callable[[], Member], start: bytes):
        self._file, self._new, self._magic, self._start = file, new, new.magic, start
        self._kept, self._kept_at = bytearray(), 0  # bytes from the current member's beginning on, or the last of them
        self._whole = 0  # members

    def pieces(self) -> Iterator[ArchivePart]:
        """Yields the content of all members."""
        at: int | None = 0
        while at is not None and self._keep_from(at):
            if self._kept[0] == 0:  # padding
                at += len(self._kept) - len(self._kept.lstrip(b"\0"))
                continue
            inside = self._kept.startswith(self._magic)
            try:
                rest = yield from self._member(at)
                at = self._kept_at + len(self._kept) - len(rest)
                self._whole += 1
            except (*ERRORS, EOFError) as error:
                following = self._next_member(at + 1)
                lost = isinstance(error, EOFError) or not inside or not self._whole
                why = str(error) or "it ends in the middle of a member"
                why += f"; reading goes on at byte {following:,}" if following else ""
                yield ArchivePart(
                    at, damage=f"damaged at byte {at:,}: {why}", inside=inside, final=lost and following is None
                )
                at = following

    def _keep_from(self, at: int) -> bool:
        """Forgets what lies before byte `at`; returns whether there is anything from there on."""
        del self._kept[: at - self._kept_at]
        self._kept_at = at
        return bool(self._kept or self._read())

    def _read(self) -> bytes:
        block = self._file.read(BLOCK)
        self._kept += block
        if len(self._kept) > 2 * LOOK_BACK:
            cut = len(self._kept) - LOOK_BACK
            del self._kept[:cut]
            self._kept_at += cut
        return block

    def _member(self, offset: int) -> Iterator[ArchivePart]:
        """Yields a member's pieces; returns what was read beyond it."""
        member, head, begins, data = self._new(), b"", True, bytes(self._kept)
        while True:
            for out in member.feed(data):
                head += out
                if len(head) >= len(self._start):
                    yield ArchivePart(offset, head, begins)
                    head, begins = b"", False
            if member.ended:
                if head:
                    yield ArchivePart(offset, head, begins)
                return member.rest
            if not (data := self._read()):
                raise EOFError

    def _next_member(self, at: int) -> int | None:
        """Returns at which byte from `at` on a member lies that begins with `start`, None where there is none."""
        at = max(at, self._kept_at)
        while True:
            offset = self._kept.find(self._magic, at - self._kept_at)
            if offset < 0:
                at = max(at, self._kept_at + len(self._kept) - len(self._magic) + 1)
                if not self._read():
                    return None
                continue
            at = self._kept_at + offset
            while self._kept_at + len(self._kept) - at < PROBE and self._read():
                pass
            if self._begins_well(bytes(self._kept[at - self._kept_at :][:PROBE])):
                return at
            at += 1

    def _begins_well(self, data: bytes) -> bool:
        head = b""
        try:
            for out in self._new().feed(data):
                head += out
        except ERRORS:
            pass
        return head.startswith(self._start)
