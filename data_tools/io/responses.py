"""HTTP responses as archives hold them: header, and the body with its transfer and content encodings undone.

Crawlers undo some encodings and keep the header, so that an encoding is undone only where the body shows it.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zstandard

from data_tools.io.archives import GzipMember, ZstdFrame
from data_tools.io.warc import END_OF_HEAD, fields

STATUS = re.compile(rb"HTTP/\d+(?:\.\d+)?[ \t]+(\d{3})?", re.IGNORECASE)
CHUNK = re.compile(rb"[ \t]*([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
CHUNK_END = re.compile(rb"\r?\n")
GZIP = GzipMember.magic
BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
WIDE = (b"\xff\xfe", b"\xfe\xff")  # UTF-16 and UTF-32 begin so, and hold zeros
NONE = ("", "identity", "none", "binary")
PLAIN = re.compile(rb"\s*<|\xef\xbb\xbf\s*<")  # markup: surely not compressed


class Undecodable(ValueError):
    """A body that is damaged, cut off, too long or of an unknown encoding; the message says which."""


@dataclass(frozen=True)
class Response:
    """Status (None where the server named none), header by names in lower case, and the decoded body."""

    status: int | None
    header: Mapping[str, str]
    body: bytes


def parse(message: bytes, longest: int) -> Response:
    """Returns an HTTP response, decoded.

    Args:
        message: status line, header and body.
        longest: bytes of the decoded body, at most.

    Raises:
        Undecodable: there is no response, or its body cannot be decoded.
    """
    status = STATUS.match(message)
    if not status:
        if PLAIN.match(message):  # a page without its header
            return Response(None, {}, message)
        raise Undecodable("no HTTP header")
    end = END_OF_HEAD.search(message)
    if not end:
        raise Undecodable("the HTTP header has no end")
    header = fields(message[message.find(b"\n") + 1 : end.end()])
    number = int(status[1]) if status[1] else None
    return Response(number, header, decoded(message[end.end() :], header, longest))


def decoded(body: bytes, header: Mapping[str, str], longest: int) -> bytes:
    """Returns a body with the encodings that its header names undone, as far as it shows them.

    Raises:
        Undecodable: as `parse`.
    """
    names = [n for key in ("content-encoding", "transfer-encoding") for n in header.get(key, "").lower().split(",")]
    for name in reversed([n.strip() for n in names]):
        if name in NONE or not body:
            continue
        if name not in DECODERS:
            if not PLAIN.match(body):
                raise Undecodable(f"unknown encoding {name[:40]!r}")
            continue
        body = DECODERS[name](body, longest)
        if len(body) > longest:
            raise Undecodable(f"page longer than {longest:,} bytes")
    if body.startswith(GZIP):  # compressed once more than the header says
        body = _gzip(body, longest)
    if len(body) > longest:
        raise Undecodable(f"page longer than {longest:,} bytes")
    return body


def _as_it_is(body: bytes, name: str) -> bytes:
    """Returns a body that is not encoded although its header says so."""
    if not PLAIN.match(body) and not body.startswith(WIDE) and BINARY.search(body, 0, 1024):
        raise Undecodable(f"encoding {name}, but the body is neither {name} nor text")
    return body


def _chunked(body: bytes, longest: int) -> bytes:
    parts: list[bytes] = []
    at = 0
    while line := CHUNK.match(body, at):
        size, at = int(line[1], 16), line.end()
        if size == 0:
            return b"".join(parts)
        end = CHUNK_END.match(body, at + size)
        if not end:
            break
        parts.append(body[at : at + size])
        at = end.end()
    if not parts and not (line and line[0].endswith(b"\r\n")):
        return body
    raise Undecodable(f"the chunked body breaks off after {len(parts):,} chunks")


def _inflate(body: bytes, bits: int, longest: int, name: str) -> bytes:
    """Decompresses with zlib, as far as `longest + 1` bytes; what follows the compressed data is left out."""
    parts: list[bytes] = []
    size = 0
    while body and size <= longest:
        inflate = zlib.decompressobj(bits)
        parts.append(inflate.decompress(body, longest + 1 - size))
        size += len(parts[-1])
        if not inflate.eof and size <= longest:
            raise Undecodable(f"the {name} body is cut off")
        body = inflate.unused_data if inflate.unused_data.startswith(GZIP) and bits > 15 else b""
    return b"".join(parts)


def _gzip(body: bytes, longest: int) -> bytes:
    if not body.startswith(GZIP):
        return _as_it_is(body, "gzip")
    try:
        return _inflate(body, 31, longest, "gzip")
    except zlib.error as error:
        raise Undecodable(f"the gzip body is damaged ({error})") from error


def _deflate(body: bytes, longest: int) -> bytes:
    for bits in (15, -15):  # as the standard says, and as some servers do
        try:
            return _inflate(body, bits, longest, "deflate")
        except zlib.error:
            pass
        except Undecodable:
            if not PLAIN.match(body):
                raise
    return _as_it_is(body, "deflate")


def _brotli(body: bytes, longest: int) -> bytes:
    import brotli  # comes with FastWARC, which resiliparse needs

    stream, parts, size = brotli.Decompressor(), [], 0
    data = body
    try:
        while size <= longest and not stream.is_finished():
            parts.append(stream.process(data, output_buffer_limit=longest + 1 - size))
            data, size = b"", size + len(parts[-1])
            if not parts[-1]:
                if PLAIN.match(body):
                    break
                raise Undecodable("the br body is cut off")
        else:
            return b"".join(parts)
    except brotli.error:
        pass
    return _as_it_is(body, "br")


def _zstd(body: bytes, longest: int) -> bytes:
    if not body.startswith(ZstdFrame.magic):
        return _as_it_is(body, "zstd")
    parts: list[bytes] = []
    size = 0
    while body.startswith(ZstdFrame.magic) and size <= longest:
        frame = ZstdFrame()
        try:
            for part in frame.feed(body):
                parts.append(part)
                size += len(part)
                if size > longest:
                    break
        except zstandard.ZstdError as error:
            raise Undecodable(f"the zstd body is damaged ({error})") from error
        if size <= longest and not frame.ended:
            raise Undecodable("the zstd body is cut off")
        body = frame.rest
    return b"".join(parts)


DECODERS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "chunked": _chunked,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
