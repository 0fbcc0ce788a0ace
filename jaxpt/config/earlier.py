"""Keys of earlier versions as they are called today, so that old config files, stored configs and flags go on to work.

A section (the base class of a kind, or a choice) says it in one of two ways. `moved: ClassVar[Mapping[str, str]]` maps
paths of old keys to today's, both seen from the section; it holds for flags too, and references between fields stay
references. `of_today(values)`, a classmethod, returns the section's keys as they are written today, for what must be
computed. It is called after `moved`, with plain dicts and lists, and again on what it returned, which it must then
leave as it is.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from jaxpt.config.hints import Value
from jaxpt.errors import JaxptError

Path = tuple[str | int, ...]  # of a key: names, and numbers of list entries


def path_of_today(cls: Any, path: Path) -> Path:
    """Returns the path of a key, seen from the section `cls`, as it is called today."""
    moved = getattr(cls, "moved", {})
    for old in sorted(moved, key=len, reverse=True):
        head = tuple(old.split("."))
        if path[: len(head)] == head:
            return (*moved[old].split("."), *path[len(head) :])
    return path


def of_today(cls: Any, values: Mapping[str, Value], where: str) -> dict[str, Value]:
    """Returns the keys of the section `cls` as they are written today; `values` stays as it is.

    Raises:
        JaxptError: a key that is given under both its names.
    """
    out = raw_items(values)
    for old, new in getattr(cls, "moved", {}).items():
        if _holds(out, old.split(".")):
            if _holds(out, new.split(".")):
                raise JaxptError(f"{where}.{old} is called {where}.{new} today, and both are given; remove the first")
            out, value = _without(out, old.split("."))
            out = _with(out, new.split("."), value)
    if not hasattr(cls, "of_today"):
        return out
    today = cls.of_today({key: _resolved(value) for key, value in out.items()})
    kept = {key for key in today if key in out and repr(today[key]) == repr(_resolved(out[key]))}  # 4.0 is not 4
    return {key: out[key] if key in kept else value for key, value in today.items()}


def has_own(cls: type) -> bool:
    """Whether a choice itself says what keys of its own were called, besides what the base class of its kind says."""
    return "moved" in vars(cls) or "of_today" in vars(cls)


def rewrite(cls: Any, values: ConfigDict, where: str) -> None:
    """Does the same to a section in place."""
    before = raw_items(values)
    after = of_today(cls, values, where)
    with values.unlocked(), values.ignore_type():
        for key in before:
            if key not in after or after[key] is not before[key]:
                del values[key]
        for key in after:
            if key not in values:
                values[key] = after[key]


def raw_items(values: Mapping[str, Value]) -> dict[str, Value]:
    """Returns a section's values by key, references between fields as such."""
    return dict(values.items(preserve_field_references=True) if isinstance(values, ConfigDict) else values.items())


def _resolved(value: Value) -> Value:
    """A value as plain dicts and lists, references followed."""
    if isinstance(value, FieldReference):
        return _resolved(value.get())
    if isinstance(value, Mapping | ConfigDict):
        return {key: _resolved(value[key]) for key in value}
    if type(value) is list:
        return [_resolved(v) for v in value]
    return tuple(_resolved(v) for v in value) if type(value) is tuple else value


def _holds(values: Value, path: list[str]) -> bool:
    for key in path:
        if not isinstance(values, Mapping | ConfigDict) or key not in values:
            return False
        values = values[key]
    return True


def _without(values: Mapping[str, Value], path: list[str]) -> tuple[dict[str, Value], Any]:
    """Returns a copy that lacks a key, and its value; sections that it empties are left out too."""
    key, *rest = path
    out = raw_items(values)
    value = out.pop(key)
    if not rest:
        return out, value
    held = value.get() if isinstance(value, FieldReference) else value
    assert isinstance(held, Mapping | ConfigDict), key
    inner, value = _without(held, rest)
    return out | {key: inner} if inner else out, value


def _with(values: Mapping[str, Value], path: list[str], value: Value) -> dict[str, Value]:
    key, *rest = path
    out = raw_items(values)
    if not rest:
        return out | {key: value}
    held = out.get(key) or {}
    assert isinstance(held, Mapping | ConfigDict), key
    return out | {key: _with(held, rest, value)}
