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


def _public(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _phone(text: str) -> bool:
    return 10 <= sum(map(str.isdigit, text)) <= 15


def _any(text: str) -> bool:
    return True


@dataclass(frozen=True)
class PersonalKind:
    """A kind of personal data."""

    pattern: re.Pattern  # what it looks like; never longer than a line
    hint: re.Pattern  # finds every line in which `pattern` matches; begins with one character where it can: quick
    valid: Callable[[str], bool]  # whether what looks like it is meant
    placeholder: str
    fakes: tuple[str, ...]  # reserved values: nobody's


KINDS = {
    "email": PersonalKind(
        _EMAIL, re.compile("@"), _any, "<EMAIL>", ("email@example.com", "firstname.lastname@example.org")
    ),
    "ip": PersonalKind(  # RFC 5737
        _IPV4, re.compile(r"\.\d{1,3}\.\d"), _public, "<IP_ADDRESS>", ("192.0.2.17", "198.51.100.24", "203.0.113.5")
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
            if not kind.valid(match[0]):
                return match[0]
            counts[name] = counts.get(name, 0) + 1
            return kind.placeholder if replace == "placeholder" else next(fakes)

        lines = text.split("\n")
        text = "\n".join([kind.pattern.sub(swap, line) if kind.hint.search(line) else line for line in lines])
    return text, counts
