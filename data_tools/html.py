"""The readable text of web pages, from HTML and from WARC archives, by resiliparse and FastWARC."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from jaxpt.errors import JaxptError

KINDS = ("text/html", "application/xhtml+xml", "text/plain")


def decode(page: bytes, charset: str | None = None) -> str:
    """Returns a page as text: in the charset that the server named, else the one its content shows."""
    return bytes_to_str(page, charset or detect_encoding(page, from_html_meta=True) or "utf-8", errors="replace")


def main_text(html: str) -> str:
    """Returns the main content of a page as text, without navigation, comments, forms and image descriptions."""
    return extract_plain_text(
        html, main_content=True, alt_texts=False, links=False, comments=False, preserve_formatting=True
    ).strip()


def pages(file: BinaryIO) -> Iterator[dict[str, Any] | str]:
    """Yields the response records of a WARC file: `text, url, date`, or why there is no text.

    Raises:
        JaxptError: the file is no WARC.
    """
    kinds = WarcRecordType.response | WarcRecordType.conversion
    try:
        for record in ArchiveIterator(file, record_types=kinds, auto_decode="all", stream_detect=False):
            yield _page(record)
    except OSError as error:
        raise JaxptError(f"not a WARC file, or damaged ({error}); replace the file or leave it out") from error


def _page(record: WarcRecord) -> dict[str, Any] | str:
    url = record.headers.get("WARC-Target-URI") or ""
    length = record.content_length
    data = record.reader.read()
    if record.record_type == WarcRecordType.conversion:
        kind, charset = "text/plain", "utf-8"
    else:
        status, encoded = record.http_headers.status_code, record.http_headers.get("Content-Encoding")
        if status is not None and status != 200:
            return f"HTTP status {status}: {url}"
        kind, charset = record.http_content_type or "text/html", record.http_charset
        if encoded or record.http_headers.get("Transfer-Encoding"):
            length = 0  # the length is that of the encoded page
    if len(data) < length:
        return f"{len(data)} of {length} bytes are there: {url}"
    if kind not in KINDS:
        return f"content type {kind}: {url}"
    text = decode(data, charset)
    text = text.strip() if kind == "text/plain" else main_text(text)
    if not text:
        return f"no text in the page: {url}"
    return {"text": text, "url": url, "date": record.headers.get("WARC-Date")}
