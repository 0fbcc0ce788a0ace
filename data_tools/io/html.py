"""The readable text of web pages, from HTML and from WARC archives, by resiliparse."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from data_tools.io.archives import pieces
from data_tools.io.responses import parse
from data_tools.io.warc import START, Lost, Record, records
from jaxpt.data.caps import RAW, Caps

KINDS = ("text/html", "application/xhtml+xml", "text/plain")
PAGES = ("response", "resource", "conversion")
OTHERS = ("warcinfo", "request", "metadata", "revisit")
CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
SOFT_HYPHEN = "\u00ad"
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements that cannot lie in each other without another around them: void, or ended by the next of their kind.
NEVER_DEEP = {
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr", "p",
    "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "colgroup", "rb", "rt", "rp",
    "rtc", "html", "head", "body",
}  # fmt: skip
LINE = 300  # characters of a message or an address


def decode(page: bytes, charset: str | None = None) -> str:
    """Returns a page as text: in the charset that the server named, else the one its content shows."""
    return bytes_to_str(page, charset or detect_encoding(page, from_html_meta=True) or "utf-8", errors="replace")


def main_text(html: str, deepest: int = RAW.deepest_html) -> str:
    """Returns the main content of a page as text, without navigation, comments, forms and image descriptions.

    Soft hyphens (`&shy;`) go: they say where a browser may break a word, and are no part of it.

    Raises:
        ValueError: more than `deepest` elements lie in each other; the time to extract grows with their square.
    """
    if (depth := nesting(html, deepest)) > deepest:
        raise ValueError(f"elements nested {depth:,} deep, at most {deepest:,} are read")
    text = extract_plain_text(
        html, main_content=True, alt_texts=False, links=False, comments=False, preserve_formatting=True
    )
    return text.replace(SOFT_HYPHEN, "").strip()


def nesting(html: str, deepest: int) -> int:
    """Returns about how many elements of a page lie in each other at most, counted in linear time from its tags.

    0 where a page has too few tags to be nested more than `deepest` deep.
    """
    if html.count("<") <= deepest:
        return 0
    open_: dict[str, int] = {}
    depth = deepest = 0
    for tag in TAG.finditer(html):
        name = tag[2].lower()
        if name in NEVER_DEEP:
            continue
        count = open_.get(name, 0)
        if not tag[1]:
            open_[name], depth = count + 1, depth + 1
            deepest = max(deepest, depth)
        elif count:
            open_[name], depth = count - 1, depth - 1
    return deepest


def pages(file: BinaryIO, path: str, caps: Caps) -> Iterator[dict[str, Any] | str]:
    """Yields the pages of a WARC file: `text, url, date`, or why there is no text, with the place in the file.

    Pages are responses, resources and conversions; other kinds of records (requests, metadata, …) are passed over.

    Args:
        file: as it lies on disk.
        path: its name, which says how it is compressed.
        caps: what a page may take.

    Raises:
        EOFError: the file ends early, is damaged up to its end, or holds no record.
    """
    content = pieces(file, path, START)
    for record in records(content, caps.largest_record, compressed=path.endswith((".gz", ".zst"))):
        where = f"record at byte {record.offset:,}"
        if isinstance(record, Lost):
            yield f"{record.reason} ({where})"
            continue
        kind = record.header.get("warc-type", "").lower()
        if kind in OTHERS:
            continue
        url = record.header.get("warc-target-uri", "")
        try:
            text = _text(record, kind, caps)
        except (ValueError, LookupError, RuntimeError) as error:  # resiliparse's errors have no base of their own
            why = " ".join(str(error).split())[:LINE]
            yield f"{why}: {' '.join(url.split())[:LINE]} ({where})"
            continue
        yield {"text": text, "url": url, "date": record.header.get("warc-date")}


def _text(record: Record, kind: str, caps: Caps) -> str:
    """Returns the text of a page.

    Raises:
        ValueError: there is none; the message says why.
    """
    if kind not in PAGES:
        raise ValueError(f"record of unknown type {kind!r}")
    if "warc-segment-number" in record.header:
        raise ValueError("part of a page that is stored in parts")
    body, stated, charset = record.block, record.header.get("content-type", ""), None
    if kind == "conversion":
        stated, charset = "text/plain", "utf-8"
    elif "application/http" in stated.lower() or (kind == "response" and body[:5].upper() == b"HTTP/"):
        response = parse(body, caps.largest_record)
        if response.status not in (None, 200):
            raise ValueError(f"HTTP status {response.status}")
        body, stated = response.body, response.header.get("content-type", "")
    content_type = re.split("[;,]", stated)[0].strip().lower() or "text/html"
    if content_type not in KINDS:
        raise ValueError(f"content type {content_type}")
    text = decode(body, charset or _charset(stated))
    text = text.strip() if content_type == "text/plain" else main_text(text, caps.deepest_html)
    if not text:
        raise ValueError("no text in the page")
    return text


def _charset(content_type: str) -> str | None:
    """Returns the charset that a Content-Type names, None where Python does not know it."""
    named = CHARSET.search(content_type)
    try:
        return named[1] if named and "a".encode(named[1]) else None
    except (LookupError, UnicodeError):
        return None
