"""Frozen dataclasses as the schema of a config: what a key may be called and what type its value has."""

import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from jaxpt.config import earlier
from jaxpt.config.choice import Choice, find, has_option, is_kind, name_of, pick
from jaxpt.config.hints import WANTED, Hint, Key, Value, entries_of, is_dict, is_section, is_tuple, keys_of
from jaxpt.config.users_line import reason, users_line
from jaxpt.errors import JaxptError, nearest

T = TypeVar("T")


def build(cls: type[T], values: Value, where: str = "config") -> T:
    """Turns plain values (or a ConfigDict) into the frozen dataclass `cls`, checking every key and every type.

    Args:
        cls: a dataclass of scalars, `X | None`, `tuple[X, ...]`, `dict[str, X]`, `Any` and further dataclasses.
        values: the keys of `cls`; those with a default may be absent. Keys of earlier versions are translated.
        where: name of the value in error messages, e.g. `config.stages[1]`.

    Raises:
        JaxptError: an unknown key (its nearest neighbour is named), a missing key or a wrong type.
    """
    if not isinstance(values, Mapping | ConfigDict):
        raise JaxptError(f"{where} is {values!r}, {what_section(cls)}")
    values = earlier.of_today(cls, {key: values[key] for key in values}, where)
    picked: Any = cls
    if is_kind(cls):
        picked, values = pick(cls, values, where)
        values = earlier.of_today(picked, values, where) if earlier.has_own(picked) else values
    keys = keys_of(picked)
    for key in values:
        if key not in keys:
            raise unknown_key(picked, key, where, ["name", *keys] if is_kind(cls) else None)
    missing = [key.name for key in keys.values() if key.required and key.name not in values]
    if missing:
        raise JaxptError(f"{where} lacks {', '.join(missing)}; set --{where}.{missing[0]}")
    for held in keys.values():
        stated = values.get(held.name)
        if held.options_of and stated and isinstance(stated, Mapping | ConfigDict):
            check_stated(chosen(held, values, where), stated, f"{where}.{held.name}")
    checked = {k: _value(keys[k].hint, v, f"{where}.{k}", keys[k].optional) for k, v in values.items()}
    try:
        return picked(**checked)
    except JaxptError as error:
        raise _placed(error, picked, where) from error
    except Exception as error:
        if not is_kind(cls):
            raise
        raise JaxptError(f"{where} ({name_of(picked)}): {users_line(error)}{reason(error)}") from error


def chosen(key: Key, values: Mapping[str, Value], where: str) -> type[Choice]:
    """Returns the dataclass whose options the dict under `key` holds; `values` are those of its section.

    Raises:
        JaxptError: as `jaxpt.config.choice.find`; the section does not say which.
    """
    base, by = key.options_of or (Choice, "")
    if by not in values:
        raise JaxptError(f"{where} lacks {by}; set --{where}.{by}")
    return find(base, values[by], f"{where}.{by}")


def check_stated(cls: type, values: Mapping[str, Value], where: str) -> None:
    """Checks keys and types of some of the options of `cls`; the others need not be there.

    Raises:
        JaxptError: an unknown key (its nearest neighbour is named) or a wrong type.
    """
    keys = keys_of(cls)
    for key in values:
        if key not in keys:
            raise unknown_key(cls, key, where)
    for key, value in earlier.of_today(cls, plain(values), where).items():
        _value(keys[key].hint, value, f"{where}.{key}", keys[key].optional)


def _placed(error: JaxptError, cls: type, where: str) -> JaxptError:
    """What a section's own check says, beginning with its key or with its name and key, with where it lies in front."""
    first = re.match(r"\w*", str(error))[0]  # type: ignore[index]
    outer, _, own = where.rpartition(".")
    if first in keys_of(cls):
        return JaxptError(f"{where}.{error}")
    return JaxptError(f"{outer}.{error}") if outer and first == own else error


def translate(cls: type, values: ConfigDict, where: str = "config") -> None:
    """Writes a section and all within it, in place, with the keys of today; sections in lists become ConfigDicts.

    References between fields stay references.
    """
    earlier.rewrite(cls, values, where)
    picked = pick(cls, values, where)[0] if is_kind(cls) else cls
    if picked is not cls and earlier.has_own(picked):
        earlier.rewrite(picked, values, where)
    for key in keys_of(picked).values():
        if key.name in values:
            _replace(values, key.name, translated(key.hint, values[key.name], f"{where}.{key.name}"))


def translated(hint: Hint, value: Value, where: str) -> Value:
    """Returns a value of a config with the keys of today; a ConfigDict is changed in place."""
    if isinstance(value, Mapping) and (is_section(hint) or is_dict(hint)):
        value = ConfigDict(value)
    if is_section(hint) and isinstance(value, ConfigDict):
        translate(hint, value, where)
    elif is_dict(hint) and isinstance(value, ConfigDict):
        for name in value:
            _replace(value, name, translated(entries_of(hint), value[name], f"{where}.{name}"))
        if entries_of(hint) in (float, Any):
            _whole_to_float(value)
    elif is_tuple(hint) and is_section(entries_of(hint)) and isinstance(value, list | tuple):
        return [translated(entries_of(hint), entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    return value


def _whole_to_float(values: ConfigDict) -> None:
    """Turns whole numbers into floats, in dicts within too, so that a flag may later say 0.5."""
    for key in values:
        if isinstance(values[key], ConfigDict):
            _whole_to_float(values[key])
        elif isinstance(values[key], int) and not isinstance(values[key], bool):
            _replace(values, key, float(values[key]))


def _replace(values: ConfigDict, key: str, value: Value) -> None:
    if values[key] is not value:
        with values.unlocked(), values.ignore_type():
            values[key] = value


def unknown_key(cls: Hint, key: str, where: str, known: Iterable[str] | None = None) -> JaxptError:
    """Returns the error of a key that is not there: its nearest neighbour, or the choice that has it.

    Args:
        cls: the section's dataclass, or what a kind's name picked; it may say more in a staticmethod `no_key(key)`.
        key: the key that it has not.
        where: the section.
        known: the keys it has, of a dict or with `name`; None: the fields of `cls`.
    """
    own = keys_of(cls) if isinstance(cls, type) and known is None else {}
    names = list(own if known is None else known)
    hint = (cls.no_key(key) if hasattr(cls, "no_key") else "") or nearest(key, names)
    if isinstance(cls, type) and issubclass(cls, Choice):
        other = [n for n in has_option(cls.base, key) if n != name_of(cls)]
        listed = " and ".join([*([", ".join(other[:-1])] if other[1:] else []), *other[-1:]])
        hint += f"; {listed} {'have' if other[1:] else 'has'} it" if other else ""
    if not hint:
        hint = f"; the keys are {', '.join(names)}" if names else "; it has no keys"
    return JaxptError(f"{where}.{key} is not a key{hint}")


def what_section(cls: type) -> str:
    """Returns what the value of a section must be."""
    names = ", ".join([*(["name"] if is_kind(cls) else []), *keys_of(cls)])
    return f"it must be a dict with the keys {names}" + (" and the choice's own" if is_kind(cls) else "")


def plain(value: Value) -> Any:
    """Returns a dataclass tree as JSON-ready plain values."""
    if is_section(type(value)):
        named = {"name": value.name} if isinstance(value, Choice) else {}
        return named | {name: plain(getattr(value, name)) for name in keys_of(type(value))}
    if isinstance(value, Mapping | ConfigDict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _value(hint: Hint, value: Value, where: str, optional: bool = False) -> Value:
    if optional and (value is None or value == "None"):
        return None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_section(hint):
        # None for a whole section takes back what the file says: its defaults
        return value if isinstance(value, hint) else build(hint, {} if value is None else value, where)
    if is_dict(hint):
        if not isinstance(value, Mapping | ConfigDict):
            raise JaxptError(f"{where} is {value!r}, it must be a dict")
        return {str(k): _value(args[1], value[k], f"{where}.{k}") for k in value}
    if is_tuple(hint):
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise JaxptError(f"{where} is {value!r}, it must be a list")
        return tuple(_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is typing.Literal:
        if value not in args:
            names = ", ".join(map(str, args))
            raise JaxptError(f"{where} is {value!r}, it must be one of {names}{nearest(str(value), args)}")
        return value
    return _scalar(hint, value, where)


def _scalar(hint: Hint, value: Value, where: str) -> Value:
    if hint is Any:
        return plain(value)
    assert isinstance(hint, type), hint
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise JaxptError(f"{where} is {value!r} ({type(value).__name__}), it must be {WANTED[hint]}")
    return value
