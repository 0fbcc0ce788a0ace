"""The JSON of a request, read key by key: each is checked when it is read, and what nobody reads is refused."""

import json
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from jaxpt.errors import nearest, short
from jaxpt.serving.limits import DEEPEST
from jaxpt.serving.refusal import Refusal


def parse(body: bytes) -> dict[str, Any]:
    """Returns a request's JSON object.

    Raises:
        Refusal: it is not JSON in UTF-8 (NaN is not), is nested too deeply, or is no object.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise Refusal(400, f"the body's JSON is nested more than {DEEPEST} levels deep") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise Refusal(400, f"the body must be a JSON object, it is {_kind(value)}")
    if _deeper(value, DEEPEST):
        raise Refusal(400, f"the body's JSON is nested more than {DEEPEST} levels deep")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _deeper(value: object, levels: int) -> bool:
    here = [value]
    for _ in range(levels):
        here = [
            child
            for v in here
            if isinstance(v, (dict, list))
            for child in (v.values() if isinstance(v, dict) else v)
            if isinstance(child, (dict, list))
        ]
        if not here:
            return False
    return True


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "an integer",
        float: "a number",
    }
    return names.get(type(value), "null")


class RequestFields:
    """The keys of one request; null is the same as absent."""

    def __init__(self, body: Mapping[str, Any]):
        """Takes the parsed body."""
        self._left = {k: v for k, v in body.items() if v is not None}
        self._known: set[str] = set()

    def take(self, key: str) -> Any:
        """Returns the value of a key, None where there is none; nobody else need read it."""
        self._known.add(key)
        return self._left.pop(key, None)

    def refuse(self, key: str, value: object, want: str) -> NoReturn:
        """Raises what a wrong value is answered with."""
        raise Refusal(400, f"{key} must be {want}, it is {short(value)}", param=key)

    def integer(self, key: str, default: int | None, low: int, high: int) -> int | None:
        """Returns an integer within bounds."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(key, value, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """Returns a finite number within bounds."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.refuse(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str | None:
        """Returns a text."""
        value = self.take(key)
        if value is not None and not isinstance(value, str):
            self.refuse(key, value, "text")
        return default if value is None else value

    def mapping(self, key: str) -> dict[str, Any]:
        """Returns an object, empty where there is none."""
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, value, "an object")
        return value or {}

    def texts(self, key: str, most: int, longest: int) -> tuple[str, ...]:
        """Returns one text or a list of them; empty ones are left out."""
        value = self.take(key)
        given = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(given, list) or len(given) > most or not all(isinstance(t, str) for t in given):
            self.refuse(key, value, f"text or a list of at most {most} texts")
        for text in given:
            if len(text) > longest:
                self.refuse(key, text, f"at most {longest} characters long")
        return tuple(t for t in given if t)

    def ids(self, key: str, most: int) -> tuple[int, ...]:
        """Returns a list of token ids."""
        value = self.take(key)
        given = [] if value is None else value
        if not isinstance(given, list) or len(given) > most or not all(type(i) is int and i >= 0 for i in given):
            self.refuse(key, value, f"a list of at most {most} token ids")
        return tuple(given)

    def close(self, ignored: Collection[str], neutral: Mapping[str, tuple[object, ...]]) -> None:
        """Checks what has not been read.

        Args:
            ignored: keys that change no answer, whatever they hold.
            neutral: keys that are not supported, with the values that ask for nothing.

        Raises:
            Refusal: a key that is not supported with another value, or one that nobody knows.
        """
        for key, value in self._left.items():
            if key in ignored:
                continue
            if key in neutral:
                if any(type(value) is type(v) and value == v for v in neutral[key]):
                    continue
                raise Refusal(400, f"{key} is not supported (it is {short(value)}); leave it out", param=key)
            known = {*self._known, *ignored, *neutral}
            raise Refusal(400, f"{short(key)} is no key of this request{nearest(key, known)}", param=key[:60])
