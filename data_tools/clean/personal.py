"""Mask personal data: e-mail addresses, public IP addresses, telephone numbers."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from itertools import cycle

from jaxpt.errors import JaxptError, nearest

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%'-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b"
)
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d]|\.\d)")
_PHONE = re.compile(
    r"(?<![\w+.-])(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"  # +44 20 7946 0958
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}"  # (212) 555-0123, 212-555-0123
    r"|1[3-9]\d(?:[ -]?\d{4}){2}"  # Chinese mobile numbers
    r"|0\d{2,3}-\d{7,8})(?![\w-])"  # Chinese land lines
)


def _public(found: str) -> bool:
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def _phone(found: str) -> bool:
    return 10 <= sum(map(str.isdigit, found)) <= 15


def _any(found: str) -> bool:
    return True


KINDS: dict[str, tuple[re.Pattern, Callable[[str], bool], str, str, tuple[str, ...]]] = {
    "email": (_EMAIL, _any, "@", "<EMAIL>", ("email@example.com", "firstname.lastname@example.org")),
    "ip": (_IPV4, _public, ".", "<IP_ADDRESS>", ("192.0.2.17", "198.51.100.24", "203.0.113.5")),  # RFC 5737: no host's
    "phone": (_PHONE, _phone, "", "<PHONE>", ("+1-202-555-0143", "+1-202-555-0178", "+44 20 7946 0958")),
}
REPLACE = ("placeholder", "fake")
_TWO_DIGITS = re.compile(r"\d[\d ().-]{5}")


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
    numbers = _TWO_DIGITS.search(text) is not None
    for kind, (pattern, valid, needs, placeholder, values) in KINDS.items():
        if not kinds.get(kind) or needs not in text or (kind != "email" and not numbers):
            continue
        fakes = cycle(values)

        def swap(found: re.Match, kind=kind, valid=valid, fakes=fakes, placeholder=placeholder) -> str:
            if not valid(found[0]):
                return found[0]
            counts[kind] = counts.get(kind, 0) + 1
            return placeholder if replace == "placeholder" else next(fakes)

        text = pattern.sub(swap, text)
    return text, counts
