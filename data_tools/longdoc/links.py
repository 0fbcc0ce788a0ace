"""Join texts along their references: walks through the link graph that use every text once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import xxhash

from jaxpt.errors import JaxptError

_LINK = re.compile(r"""\]\(\s*<?([^)\s>]+)|href\s*=\s*["']([^"']+)["']""", re.I)


def normal_url(url: str) -> str:
    """Returns host and path of `url`, lower-case host without "www.", without fragment, query and trailing slash."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    host = (parts.hostname or "").removeprefix("www.")
    return host + re.sub(r"(/index\.html?|/)$", "", parts.path)


def links_in(text: str, url: str) -> list[str]:
    """Returns the normal urls that a Markdown or HTML text links to, in order, relative ones resolved against `url`."""
    targets = []
    for markdown, attribute in _LINK.findall(text):
        target = markdown or attribute
        if not target.startswith(("#", "mailto:", "javascript:", "data:")):
            try:
                targets.append(normal_url(urljoin(url if "//" in url else f"//{url}", target)))
            except ValueError:
                continue  # not a url, whatever the markup says
    return list(dict.fromkeys(targets))


@dataclass(frozen=True)
class Walk:
    """How texts are joined."""

    max_tokens: int = 32_768  # of one joined document
    max_degree: int = 32  # a text with more links (an index, a hub) keeps this many


def _capped(links: Mapping[str, Sequence[str]], walk: Walk) -> dict[str, list[str]]:
    """Symmetric neighbours; an edge stays when it is among the first `max_degree` of both its ends."""
    near: dict[str, set[str]] = {id: set() for id in links}
    for id, targets in links.items():
        for target in targets:
            if target in near and target != id:
                near[id].add(target)
                near[target].add(id)

    def rank(a: str, b: str) -> int:
        return xxhash.xxh3_64_intdigest("\0".join(sorted((a, b))).encode("utf-8", "replace"))

    best = {id: sorted(ns, key=lambda n, id=id: (rank(id, n), n))[: walk.max_degree] for id, ns in near.items()}
    allowed = {id: set(ns) for id, ns in best.items()}
    return {id: [n for n in ns if id in allowed[n]] for id, ns in best.items()}


def walks(links: Mapping[str, Sequence[str]], tokens: Mapping[str, int], walk: Walk | None = None) -> list[list[str]]:
    """Chains texts along links, each used exactly once.

    A chain begins at the unused text with the fewest unused neighbours and goes on to the neighbour with the fewest,
    so that few texts are left alone; it ends where no neighbour fits into the budget. Unlinked texts are chains of one.

    Args:
        links: id to the ids it refers to; every text has an entry, unknown targets are ignored.
        tokens: id to its length.
        walk: limits.

    Returns:
        Chains of ids, in order of their first id's turn; the same for any order of the input.

    Raises:
        JaxptError: limits below 1.
    """
    walk = walk or Walk()
    if walk.max_tokens < 1 or walk.max_degree < 1:
        raise JaxptError(f"longdoc: max_tokens={walk.max_tokens}, max_degree={walk.max_degree} must be 1 or more")
    near = _capped(links, walk)
    open_degree = {id: len(ns) for id, ns in near.items()}
    buckets: dict[int, list[str]] = {}
    for id in sorted(near, reverse=True):
        buckets.setdefault(open_degree[id], []).append(id)
    used: set[str] = set()

    def take(id: str) -> None:
        used.add(id)
        for neighbour in near[id]:
            if neighbour not in used:
                open_degree[neighbour] -= 1
                buckets.setdefault(open_degree[neighbour], []).append(neighbour)

    def next_start() -> str | None:
        for degree in sorted(buckets):
            while buckets[degree]:
                id = buckets[degree].pop()
                if id not in used and open_degree[id] == degree:
                    return id
            del buckets[degree]
        return None

    chains = []
    while (start := next_start()) is not None:
        chain, size = [start], tokens[start]
        take(start)
        while True:
            fits = [n for n in near[chain[-1]] if n not in used and size + tokens[n] <= walk.max_tokens]
            if not fits:
                break
            best = min(fits, key=lambda n: (open_degree[n], n))
            chain.append(best)
            size += tokens[best]
            take(best)
        chains.append(chain)
    return chains
