"""Frozen dataclasses as the schema of a config: what a key may be called and what type its value has."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

from jaxpt.config.choice import Choice, chosen, is_kind, name_of, pick
from jaxpt.errors import JaxptError, nearest

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Turns plain values (or a ConfigDict) into the frozen dataclass `cls`, checking every key and every type.

    Args:
        cls: a dataclass of scalars, `X | None`, `tuple[X, ...]`, `dict[str, X]`, `Any` and further dataclasses.
        values: the keys of `cls`; those with a default may be absent.
        where: name of the value in error messages, e.g. `config.stages[1]`.

    Raises:
        JaxptError: an unknown key (its nearest neighbour is named), a missing key or a wrong type.
    """
    if not isinstance(values, Mapping | ConfigDict):
        raise JaxptError(f"{where} is {values!r}, it must be a dict with the keys {', '.join(_types(cls))}")
    values = of_today(cls, values)
    if is_kind(cls):
        cls, values = pick(cls, values, where)
    known = _types(cls)
    check_keys(values, known, where, cls)
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in values and _default(f) is dataclasses.MISSING]
    if missing:
        raise JaxptError(f"{where} lacks {', '.join(missing)}")
    for field in dataclasses.fields(cls):
        if field.name in values and (choice := chosen(field, values, where)):
            check_stated(choice, values[field.name] or {}, f"{where}.{field.name}")
    return cls(**{k: _value(known[k], values[k], f"{where}.{k}") for k in values})


def check_stated(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Checks keys and types of some of the options of `cls`; the others need not be there.

    Raises:
        JaxptError: an unknown key (its nearest neighbour is named) or a wrong type.
    """
    known = _types(cls)
    check_keys(values, known, where, cls)
    values = of_today(cls, _scalar(Any, values, where))
    for key in values:
        _value(known[key], values[key], f"{where}.{key}")


def of_today(cls: Any, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a section as it is written today: `cls.of_today(values)` translates keys of earlier versions."""
    return cls.of_today(values) if hasattr(cls, "of_today") else values


def why_not(cls: Any, key: str) -> str:
    """Returns what the section `cls` itself says of a key that it has not (its `no_key`), or nothing."""
    return cls.no_key(key) if hasattr(cls, "no_key") else ""


def check_keys(values: Any, known: Any, where: str, cls: Any = None) -> None:
    """Raises a JaxptError for the first key of `values` that is not among `known`, naming its nearest neighbour."""
    for key in values:
        if key not in known:
            hint = why_not(cls, key) or nearest(key, known) or f"; the keys are {', '.join(known)}"
            raise JaxptError(f"{where}.{key} is not a key{hint}")


def inside(hint: Any, key: str, values: Any = None, where: str = "config") -> Any:
    """Returns the type of `key` within a section, dict or list of type `hint`, None where nothing is said of it.

    For a dict of options of a choice that the section `values` names, that is the choice's dataclass.
    """
    if dataclasses.is_dataclass(hint):
        field = next((f for f in dataclasses.fields(hint) if f.name == key), None)
        if field is not None and values is not None and (choice := chosen(field, values, where)):
            return choice
        return _strip_none(_types(hint).get(key))
    args = typing.get_args(hint)
    return {dict: args[-1:], tuple: args[:1]}.get(typing.get_origin(hint), (None,))[0]


def empty(cls: type) -> ConfigDict:
    """Returns a section of which nothing is stated yet: defaults, and placeholders for the keys that must be."""
    values = ConfigDict()
    for field in dataclasses.fields(cls):
        if _default(field) is dataclasses.MISSING:
            values[field.name] = config_dict.placeholder(_kind(_strip_none(_types(cls)[field.name])))
    fill(cls, values, required=False)
    return values


def begin(hint: Any, key: str, values: ConfigDict) -> None:
    """Puts a placeholder where `values`, options of the choice `hint`, leave out the option `key`, if it has such."""
    if isinstance(hint, type) and issubclass(hint, Choice) and key in _types(hint) and key not in values:
        with values.unlocked():
            values[key] = config_dict.placeholder(_kind(_strip_none(_types(hint)[key])))


def options_named_by(cls: Any, key: str) -> str | None:
    """Returns the dict of the section `cls` that holds the options of the choice which `key` names, if there is one."""
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.metadata.get("options_of", (None, None))[1] == key:
            return field.name
    return None


def fill(cls: type, values: ConfigDict, where: str = "config", *, required: bool = True) -> None:
    """Adds to `values`, in place, every key of `cls` it does not state, so that a flag can override any key.

    Optional scalars become placeholders that know their type; dicts in lists become ConfigDicts. A whole number given
    for a float becomes a float, so that a flag may later say 0.5. References between fields stay references.
    """
    with values.unlocked(), values.ignore_type():
        translated = of_today(cls, values)
        for key in [key for key in values if key not in translated]:
            del values[key]
        values.update({key: value for key, value in translated.items() if key not in values})
    if is_kind(cls):
        cls, _ = pick(cls, values, where)
        with values.unlocked():
            values.name = name_of(cls)
    known = _types(cls)
    check_keys([key for key in values if key != "name" or not issubclass(cls, Choice)], known, where)
    with values.unlocked(), values.ignore_type():
        for field in dataclasses.fields(cls):
            name, hint = field.name, _strip_none(known[field.name])
            if name not in values or values[name] is None:
                default = _default(field)
                if default is dataclasses.MISSING:
                    if required:
                        raise JaxptError(f"{where} lacks {name}")
                    continue
                values[name] = config_dict.placeholder(_kind(hint)) if default is None else _plain(default)
            if hint is float and isinstance(values[name], int) and not isinstance(values[name], bool):
                values[name] = float(values[name])
            _fill_inside(hint, values, name, f"{where}.{name}")


def _fill_inside(hint: Any, values: ConfigDict, name: str, where: str) -> None:
    """Fills the dataclasses within `values[name]`: one, a dict of them or a list of them."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    value = values[name]
    if dataclasses.is_dataclass(hint) and isinstance(value, ConfigDict):
        fill(hint, value, where)
    elif origin is dict and isinstance(value, ConfigDict):
        for key in value:
            if dataclasses.is_dataclass(args[1]) and isinstance(value[key], ConfigDict):
                fill(args[1], value[key], f"{where}.{key}")
        if args[1] in (float, Any):
            _whole_to_float(value)
    elif origin is tuple and dataclasses.is_dataclass(args[0]) and isinstance(value, list | tuple):
        made = [v if isinstance(v, ConfigDict) else ConfigDict(v) if isinstance(v, Mapping) else v for v in value]
        for i, entry in enumerate(made):
            if isinstance(entry, ConfigDict):
                fill(args[0], entry, f"{where}[{i}]")
        values[name] = made
    elif origin is tuple and isinstance(value, list):
        del values[name]  # ml_collections overrides tuples, not lists, and would convert back
        values[name] = tuple(value)


def _whole_to_float(value: ConfigDict) -> None:
    """Turns whole numbers into floats, in dicts within too, so that a flag may later say 0.5."""
    for key in value:
        if isinstance(value[key], ConfigDict):
            _whole_to_float(value[key])
        elif isinstance(value[key], int) and not isinstance(value[key], bool):
            with value.ignore_type():
                value[key] = float(value[key])


def plain(value: Any) -> Any:
    """Returns a dataclass tree as JSON-ready plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"name": value.name} if isinstance(value, Choice) else {}
        return named | {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _value(hint: Any, value: Any, where: str) -> Any:
    if _optional(hint):
        if value is None or value == "None":
            return None
        hint = _strip_none(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        # None for a whole section takes back what the file says: its defaults
        return value if isinstance(value, hint) else build(hint, {} if value is None else value, where)
    if origin is dict:
        if not isinstance(value, Mapping | ConfigDict):
            raise JaxptError(f"{where} is {value!r}, it must be a dict")
        return {str(k): _value(args[1], value[k], f"{where}.{k}") for k in value}
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise JaxptError(f"{where} is {value!r}, it must be a list")
        return tuple(_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is typing.Literal:
        if value not in args:
            names = ", ".join(map(str, args))
            raise JaxptError(f"{where} is {value!r}, it must be one of {names}{nearest(str(value), args)}")
        return value
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return plain(value.to_dict() if isinstance(value, ConfigDict) else value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        want = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[hint]
        raise JaxptError(f"{where} is {value!r} ({type(value).__name__}), it must be {want}")
    return value


def _types(cls: type) -> dict[str, Any]:
    return {f.name: typing.get_type_hints(cls)[f.name] for f in dataclasses.fields(cls)}


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def _kind(hint: Any) -> type:
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    return hint if hint in (int, float, str, bool) else object


def _plain(default: Any) -> Any:
    value = plain(default)
    return ConfigDict(value) if isinstance(value, dict) else value


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)


def _strip_none(hint: Any) -> Any:
    if not _optional(hint):
        return hint
    (inner,) = [a for a in typing.get_args(hint) if a is not type(None)]
    return inner
