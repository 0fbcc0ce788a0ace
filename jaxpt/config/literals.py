"""A value as it is typed on a command line, read as the type of its key; the forms are ml_collections'."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from ml_collections import ConfigDict

from jaxpt.config.choice import is_kind
from jaxpt.config.hints import WANTED, Hint, Value, is_dict, is_section, is_tuple, keys_of, words
from jaxpt.errors import JaxptError

TRUE, FALSE = ("true", "t", "1"), ("false", "f", "0")


def read(text: str, values: Sequence[str | bool], hint: Hint, current: Value) -> Value:
    """Returns what a flag gives its key.

    Args:
        text: the flag, for messages.
        values: what follows `=`; True or False where nothing does. The last one holds, of a list all do.
        hint: the key's type. Of `Any`, the type of the present value; where there is none, a Python literal or text.
        current: the present value.

    Raises:
        JaxptError: a value of another type.
    """
    if hint is Any and current is not None:
        hint = _type_of(current)
    value = values[-1]
    if isinstance(value, bool):
        if hint in (bool, Any):
            return value
        key = text.partition("config.")[2]
        wanted = WANTED.get(hint) or ("one of " if get_origin(hint) is Literal else "a ") + words(hint)
        raise JaxptError(f"{text}: give a value, --config.{key}=VALUE; it must be {wanted}")
    if value == "None":
        return None
    if is_tuple(hint):
        return tuple(entry for v in values for entry in _entries(text, str(v)))
    if is_section(hint) or is_dict(hint):
        return _dict(text, value, hint)
    return _scalar(text, value, hint)


def _type_of(value: Value) -> Value:
    if isinstance(value, bool | int | float):
        return type(value)
    if isinstance(value, list | tuple):
        return tuple[Any, ...]
    return dict[str, Value] if isinstance(value, Mapping | ConfigDict) else str


def _scalar(text: str, value: str, hint: Hint) -> Value:
    if get_origin(hint) is Literal:
        hint = type(get_args(hint)[0])
    if hint is str:
        return value
    if hint is bool:
        if value.lower() not in TRUE + FALSE:
            raise JaxptError(f"{text}: it must be {WANTED[bool]}")
        return value.lower() in TRUE
    if hint is int:
        return _number(text, value, int)
    if hint is float:
        return _number(text, value, float)
    return {"true": True, "false": False}[value] if value in ("true", "false") else _literal(value)


def _number(text: str, value: str, kind: type[int] | type[float]) -> int | float:
    try:
        if kind is int:
            return int(value, {"0o": 8, "0x": 16}.get(value[:2], 10))
        return float(value)
    except ValueError:
        raise JaxptError(f"{text}: it must be {WANTED[kind]}") from None


def _literal(value: str) -> Value:
    """A Python literal, else the text itself."""
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value


def _entries(text: str, value: str) -> tuple[Value, ...]:
    try:
        got = ast.literal_eval(value)
    except ValueError:
        return (value,)
    except SyntaxError:
        if "," in value or " " in value:
            raise JaxptError(f"{text}: it must be a list such as \"('a', 'b')\", or one entry in quotes") from None
        return (value,)  # one entry, such as a path or a pattern
    return tuple(got) if isinstance(got, tuple | list | set) else (got,)


def _dict(text: str, value: str, hint: Hint) -> dict[str, Value]:
    got = _literal(value)
    if isinstance(got, dict):
        return got
    key = text.partition("=")[0]
    where = key.removeprefix("--")
    if is_kind(hint):
        raise JaxptError(f"{text}: {where} has keys of its own; pick one with {key}.name={value}")
    keys = f" ({', '.join(keys_of(hint))})" if is_section(hint) else ""
    raise JaxptError(
        f"""{text}: {where} has keys of its own{keys}; set one, or it must be a dict: "{{'KEY': VALUE}}\""""
    )
