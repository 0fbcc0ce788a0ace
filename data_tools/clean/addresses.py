"""Judge a record by its address: lists of domains and addresses, words that must not occur in an address."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from jaxpt.errors import JaxptError

_SPLIT = re.compile(r"[^a-z0-9]+")


def domain(url: str | None) -> str:
    """Returns the host of `url` in lower case without `www.` and port; "" where there is none."""
    if not url:
        return ""
    try:
        host = urlsplit(url if "//" in url else "//" + url).hostname or ""
    except ValueError:
        return ""
    return host.lower().removeprefix("www.").rstrip(".")


@lru_cache(maxsize=16)
def read_list(path: str) -> frozenset[str]:
    """Reads a list, one entry a line, `#` begins a comment.

    Raises:
        JaxptError: the file cannot be read.
    """
    try:
        with fsspec.open(path, "rt", encoding="utf-8", compression="infer") as file:
            lines = [line.partition("#")[0].strip().lower() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise JaxptError(f"clean: cannot read the list {Path(path)} ({error}); one entry a line, UTF-8") from error
    return frozenset(filter(None, lines))


def listed(url: str | None, domains: frozenset[str], urls: frozenset[str]) -> bool:
    """Tells whether the address, its domain or a parent of its domain is on a list."""
    host = domain(url)
    if not host:
        return False
    parts = host.split(".")
    if any(".".join(parts[i:]) in domains for i in range(len(parts))):
        return True
    return bool(urls) and (url or "").lower().rstrip("/") in urls


def word_score(url: str | None, hard: Iterable[str], soft: Iterable[str], inside: Sequence[str]) -> float:
    """Returns how many bad words an address holds: each `hard` word counts 2, each `soft` word 1.

    Words are what lies between marks; `inside` counts 2 anywhere, marks taken out.
    """
    if not url:
        return 0.0
    lower = url.lower()
    parts = set(_SPLIT.split(lower))
    score = 2 * len(parts.intersection(hard)) + len(parts.intersection(soft))
    if inside:
        bare = _SPLIT.sub("", lower)
        score += 2 * sum(word in bare for word in inside)
    return float(score)
