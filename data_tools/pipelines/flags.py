"""The flags of a command follow from the fields of a frozen dataclass: type, default, and one line of help.

What a field's metadata may say (`jaxpt.config.choice.option`): `doc`, its line of help; `metavar`; `aliases`, further
spellings of the flag; `positional`, that it is not a flag.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxpt.cli.dispatch import Parser
from jaxpt.config.hints import Hint, Value

T = TypeVar("T")


def parser(cls: type, program: str, about: str, example: str, **more: Any) -> Parser:
    """Returns the flags of the dataclass `cls`, required ones first.

    A bool is a switch, a tuple a flag that may be repeated, anything else `--key=value`.

    Args:
        cls: fields of type bool, int, float, str, a Literal of texts, any of these or None, or tuple[str, ...].
        program: the command's full name.
        about: what it does, in one line.
        example: how it is called.
        more: further arguments of `Parser`.
    """
    out = Parser(program, about, example, **more)
    hints = typing.get_type_hints(cls)
    for field in sorted(dataclasses.fields(cls), key=lambda field: field.default is not dataclasses.MISSING):
        names, facts = _flag(field, hints[field.name])
        out.add_argument(*names, **facts)
    return out


def parse(cls: type[T], argv: Sequence[str], program: str, about: str, example: str, **more: Any) -> T:
    """Returns the `cls` that a command line states; the other arguments as in `parser`."""
    values = vars(parser(cls, program, about, example, **more).parse_args(list(argv)))
    stated = {field.name: values[field.name] for field in dataclasses.fields(cls)}
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()})


def arguments(step: object, names: Iterable[str]) -> list[str]:
    """Returns the command line that states the fields `names` of a step as they are."""
    out: list[str] = []
    for name in names:
        value = getattr(step, name)
        if isinstance(value, tuple):
            out += [f"--{name}={entry}" for entry in value]
        elif isinstance(value, bool):
            out += [f"--{name}"] if value else []
        elif value is not None:
            out.append(f"--{name}={value}")
    return out


def as_flag(hint: Hint, value: Value) -> Value:
    """Returns a config's value of an option in the option's own type, where it is written in a way that a flag allows.

    A list stands for a value with commas or for a flag that is repeated, a dict for KEY=VALUE pairs, 4e6 for a whole
    number. What is of a wrong type stays as it is.
    """
    if isinstance(value, Mapping):
        value = [f"{key}={entry}" for key, entry in value.items()]
    if typing.get_origin(hint) is tuple:
        return tuple(map(str, value)) if isinstance(value, list | tuple) else (value,)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    whole = isinstance(value, float) and value.is_integer() and bare(hint) is int
    return int(value) if whole else value


def bare(hint: Hint) -> Hint:
    """Returns a type without `| None`."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    (inner,) = [entry for entry in typing.get_args(hint) if entry is not types.NoneType]
    return inner


def _flag(field: dataclasses.Field, hint: Hint) -> tuple[tuple[str, ...], dict[str, Value]]:
    """The names and further arguments of `add_argument` for one field."""
    about = field.metadata
    facts: dict[str, Value] = {"help": about.get("doc") or None}
    if about.get("positional"):
        return (field.name,), facts
    names = (f"--{field.name}", *about.get("aliases", ()))
    if hint is bool:
        return names, {**facts, "action": argparse.BooleanOptionalAction if field.default is True else "store_true"}
    if "metavar" in about:
        facts["metavar"] = about["metavar"]
    if typing.get_origin(hint) is tuple:
        return names, {**facts, "action": "append", "default": list(field.default)}
    kind = bare(hint)
    if typing.get_origin(kind) is typing.Literal:
        facts["choices"] = typing.get_args(kind)
    elif kind is not str:
        facts["type"] = kind
    needed = field.default is dataclasses.MISSING
    return names, {**facts, **({"required": True} if needed else {"default": field.default})}
