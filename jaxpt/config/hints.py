"""What the type hints of a section say: its keys, their types, defaults and docs."""

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:  # which builds on this module
    from jaxpt.config.choice import Choice

MISSING = dataclasses.MISSING
Hint = object  # a type hint: `int`, `X | None`, `tuple[X, ...]`, a dataclass; Python has no type for all of them
Value = object  # a value of a config before it is checked: whatever a file or a flag gives
WANTED: dict[Hint, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}  # in messages


@dataclass(frozen=True)
class Key:
    """A key of a section: its type (`None` taken off), whether it may be None, its default (or MISSING), one line.

    `options_of`: the dict under this key holds options of a choice, of the kind with this base class, which the other
    key names (`jaxpt.config.choice.options_of`).
    """

    name: str
    hint: Hint
    optional: bool
    default: Value
    doc: str
    options_of: "tuple[type[Choice], str] | None" = None

    @property
    def required(self) -> bool:
        """Whether a config must give it."""
        return self.default is MISSING


def keys_of(cls: type) -> dict[str, Key]:
    """Returns the keys of a section by name, in the order in which they are stated."""
    return _keys_of(cls)


@functools.cache
def _keys_of(cls: type) -> dict[str, Key]:
    hints = typing.get_type_hints(cls)
    out = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        facts = field.metadata
        out[field.name] = Key(
            field.name, without_none(hint), is_optional(hint), default, facts.get("doc", ""), facts.get("options_of")
        )
    return out


def options_named_by(cls: type, name: str) -> Key | None:
    """Returns the key of a section that holds the options of the choice which the key `name` names, if there is one."""
    return next((key for key in keys_of(cls).values() if key.options_of and key.options_of[1] == name), None)


def is_section(hint: Hint) -> TypeGuard[type]:
    """Whether values of this type are sections: dataclasses with keys."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def is_optional(hint: Hint) -> bool:
    """Whether None is among the values of a type."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)


def without_none(hint: Hint) -> Hint:
    """Returns the type of what is there where a value is not None."""
    if not is_optional(hint):
        return hint
    inner = [a for a in typing.get_args(hint) if a is not type(None)]
    return inner[0] if len(inner) == 1 else Any


def entries_of(hint: Hint) -> Hint:
    """Returns the type of the entries of a `dict[str, X]` or `tuple[X, ...]`, else None."""
    args = typing.get_args(hint)
    inner: dict[Hint, tuple[Hint, ...]] = {dict: args[-1:], tuple: args[:1]}
    return inner.get(typing.get_origin(hint), (None,))[0]


def is_dict(hint: Hint) -> bool:
    """Whether a type is `dict[str, X]`."""
    return typing.get_origin(hint) is dict


def is_tuple(hint: Hint) -> bool:
    """Whether a type is `tuple[X, ...]`."""
    return typing.get_origin(hint) is tuple


def words(hint: Hint) -> str:
    """Returns a type as people say it, e.g. `whole number`."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, typing.get_args(hint)))
    if is_tuple(hint):
        return f"list of {words(entries_of(hint))}"
    if is_dict(hint):
        return f"dict of {words(entries_of(hint))}"
    if is_section(hint):
        return "section"
    return WANTED.get(hint, "value").removeprefix("a ")
