"""Mask personal data: e-mail addresses, public IPv4 and IPv6 addresses, telephone numbers."""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle

from jaxpt.errors import JaxptError, nearest

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%'-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b"
)
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d]|\.\d)")
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = re.compile(  # global unicast, 2000::/3: whole, or with one run of zeros left out
    rf"(?<![\w:.])[23][0-9A-Fa-f]{{3}}(?:(?::{_HEX}){{7}}|(?::{_HEX}){{0,6}}::(?:{_HEX}(?::{_HEX}){{0,5}})?)(?!\w|:\w)"
)
_PHONE = re.compile(
    r"(?<![\w+.-])(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # +44 20 7946 0958
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}"  # (212) 555-0123, 212-555-0123
    r"|1[3-9]\d(?:[ -]?\d{4}){2}"  # Chinese mobile numbers
    r"|0\d{2,3}-\d{7,8})(?![\w-])"  # Chinese land lines
)


# What four numbers with dots also are: versions, sections, object identifiers. Words before them, as far as NEAR
# characters show, or what they are joined to.
NEAR = 48
_NUMBERED = re.compile(
    r"(?:(?<![A-Za-z])(?:v|ver|vers|versions?|release[sd]?|rel|builds?|firmware|patch|hotfix|sdk|driver|kernel|update[sd]?"
    r"|upgrade[sd]?|sections?|sec|chapters?|clauses?|paragraphs?|para|articles?|figures?|figs?|tables?|rules?|oid|appendix"
    r"|[A-Za-z]*[Vv]ersion(?:Info|Number|String|Attribute|Code)?)|§+)"
    r"(?:\s+(?:is|was|to|of|number|no|from|than|before|after|below|above)\b)*[\s:=.,#\"'`(\[<>~^!]*$",
    re.IGNORECASE,
)
_CHAINED = re.compile(r"\d[\w.]*\s*(?:,|;|/|-|–|to|and|or|through|until|->|→|&)+\s*(?:and|or|v)?\s*$")
_PINNED = re.compile(r"(?:[A-Za-z][\w.-]*\s*(?:[=~<>!]=|\^|@)|[A-Za-z]\w*[/_-])\s*v?$")  # foo==1.2.3.4, Chrome/1.2.3.4
_SUFFIXED = re.compile(
    r"(?:[-+._]?(?:alpha|beta|rc|dev|post|snapshot|final|ga|el\d|fc\d|deb|ubuntu)|\.(?:zip|tar|jar|exe|dll|whl))"
)
_ADDRESSED = re.compile(r"(?:ip|host|addr(?:ess)?|server|dns|ping|gateway)\W*$", re.IGNORECASE)
_SOURCE_HOSTS = ("git", "hg", "svn", "gitlab", "gitea", "forgejo", "aur", "gerrit")  # log-ins that everyone shares
_PIXELS = re.compile(r"\d(?:\.\d)?x\.(?:png|jpe?g|gif|svg|webp|avif|ico|bmp)", re.IGNORECASE)  # icon@2x.png


def _address(match: re.Match) -> bool:
    """Whether four numbers with dots are the address of one machine, not a version, a section or a network."""
    if not _public(match) or match[0].endswith(".0.0"):
        return False
    text, start = match.string, match.start()
    if start and text[start - 1].isalpha():  # v1.2.3.4
        return False
    before = text[max(start - NEAR, 0) : start]
    if _ADDRESSED.search(before):
        return True
    if _NUMBERED.search(before) or _PINNED.search(before) or _SUFFIXED.match(text, match.end()):
        return False
    while chained := _CHAINED.search(before):  # versions 1.2.3.4 to 1.2.3.5
        before = before[: chained.start()]
        if _NUMBERED.search(before):
            return False
    return True


def _public(match: re.Match) -> bool:
    try:
        return ipaddress.ip_address(match[0]).is_global
    except ValueError:
        return False


def _mail(match: re.Match) -> bool:
    """Whether what looks like an e-mail address is one: not a shared log-in of a source host, not a picture's name."""
    name, _, host = match[0].partition("@")
    return name.lower() not in _SOURCE_HOSTS and not _PIXELS.fullmatch(host)


def _phone(match: re.Match) -> bool:
    return 10 <= sum(map(str.isdigit, match[0])) <= 15


@dataclass(frozen=True)
class PersonalKind:
    """A kind of personal data."""

    pattern: re.Pattern  # what it looks like; never longer than a line
    hint: re.Pattern  # finds every line in which `pattern` matches; begins with one character where it can: quick
    valid: Callable[[re.Match], bool]  # whether what looks like it is meant
    placeholder: str
    fakes: tuple[str, ...]  # reserved values: nobody's


KINDS = {
    "email": PersonalKind(
        _EMAIL, re.compile("@"), _mail, "<EMAIL>", ("email@example.com", "firstname.lastname@example.org")
    ),
    "ip": PersonalKind(  # RFC 5737
        _IPV4, re.compile(r"\.\d{1,3}\.\d"), _address, "<IP_ADDRESS>", ("192.0.2.17", "198.51.100.24", "203.0.113.5")
    ),
    "ipv6": PersonalKind(  # RFC 3849
        _IPV6, re.compile(r":[0-9A-Fa-f]{0,4}:"), _public, "<IP_ADDRESS>", ("2001:db8::17", "2001:db8::5:24")
    ),
    "phone": PersonalKind(
        _PHONE,
        re.compile(r"\d[\d ().-]{5}"),
        _phone,
        "<PHONE>",
        ("+1-202-555-0143", "+1-202-555-0178", "+44 20 7946 0958"),
    ),
}
REPLACE = ("placeholder", "fake")


def mask(text: str, kinds: Mapping[str, bool], replace: str) -> tuple[str, dict[str, int]]:
    """Replaces personal data.

    Args:
        text: any text.
        kinds: which of `KINDS` to look for.
        replace: `placeholder` (`<EMAIL>`) or `fake`: reserved example values, in turn, from the first in each text.

    Returns:
        The text and how many of each kind were replaced.
    """
    if replace not in REPLACE:
        raise JaxptError(f"clean: personal.replace={replace!r}{nearest(replace, REPLACE)}; one of {', '.join(REPLACE)}")
    counts: dict[str, int] = {}
    for name, kind in KINDS.items():
        if not kinds.get(name) or not kind.hint.search(text):
            continue
        fakes = cycle(kind.fakes)

        def swap(match: re.Match, name: str = name, kind: PersonalKind = kind, fakes: Iterator[str] = fakes) -> str:
            if not kind.valid(match):
                return match[0]
            counts[name] = counts.get(name, 0) + 1
            return kind.placeholder if replace == "placeholder" else next(fakes)

        lines = text.split("\n")
        text = "\n".join([kind.pattern.sub(swap, line) if kind.hint.search(line) else line for line in lines])
    return text, counts
