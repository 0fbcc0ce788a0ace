"""A choice by name: each thing to choose is a frozen dataclass in a file of its own; the file's name is the choice's.

The base class of a kind names the room where its choices lie. No registry is kept: a new file in the room is a new
choice, and `package.module:Class` is one that lies outside this repository.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from jaxpt.errors import JaxptError, nearest

C = TypeVar("C", bound="Choice")


def option(default: Any = dataclasses.MISSING, doc: str = "", **facts: Any) -> Any:
    """Declares an option of a choice, a field with one line that help shows; without `default` it must be given.

    `facts` are further things that the kind wants to know of the option; they lie in the field's metadata.
    """
    metadata = {"doc": doc, **facts}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(base: type["Choice"], key: str) -> Any:
    """Declares a dict that holds options of a choice which another key of its section names.

    The dict holds only what is stated, so a required option may be left out; whoever builds the choice adds the rest.

    Args:
        base: the base class of the kind.
        key: the section's key that names the choice.
    """
    return dataclasses.field(default_factory=dict, metadata={"options_of": (base, key)})


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the base class of each kind of thing inherits: `class Optimizer(Choice, kind="optimizer", room=PACKAGE)`.

    Choices of the kind inherit from the base class, as frozen dataclasses whose fields are their options; fields of the
    base class are options that all of the kind have. `default` is the name of the choice where a config gives none.
    """

    kind: ClassVar[str]
    room: ClassVar[str]
    base: ClassVar[type["Choice"]]
    default: ClassVar[str | None]

    def __init_subclass__(
        cls, kind: str | None = None, room: str | None = None, default: str | None = None, **more: Any
    ) -> None:
        """Notes the kind, the room and the default of a base class."""
        super().__init_subclass__(**more)
        if kind is not None and room is not None:
            cls.kind, cls.room, cls.base, cls.default = kind, room, cls, default

    @property
    def name(self) -> str:
        """What a config calls this choice: its file's name in the room, or `package.module:Class`."""
        return name_of(type(self))


def is_kind(hint: Any) -> bool:
    """Whether `hint` is the base class of a kind, so that a section of this type has a `name`."""
    return isinstance(hint, type) and issubclass(hint, Choice) and hint.__dict__.get("base") is hint


def name_of(cls: type[Choice]) -> str:
    """Returns the name under which `find` returns `cls`."""
    room, _, file = cls.__module__.rpartition(".")
    return file.rstrip("_") if room == cls.room else f"{cls.__module__}:{cls.__qualname__}"


def names(base: type[Choice]) -> list[str]:
    """Returns the names in the room of a kind, sorted: those of its files that define a choice."""
    return sorted(_choices(base))


def find(base: type[C], name: str, where: str) -> type[C]:
    """Returns the dataclass that `name` picks.

    Args:
        base: the base class of the kind.
        name: a file's name in the room, or `package.module:Class` of the user's own code.
        where: the config key, for messages.

    Raises:
        JaxptError: an unknown name, with its nearest neighbour; a module or class that is not there or is of another
            kind.
    """
    if ":" in name:
        return _outside(base, name, where)
    known = _choices(base)
    if name not in known:
        hint = nearest(name, known) or f"; known: {', '.join(sorted(known))}"
        article = "an" if base.kind[0] in "aeiou" else "a"
        raise JaxptError(f"{where} is {name!r}, which is not {article} {base.kind}{hint}")
    return known[name]


def pick(base: type[C], values: Mapping[str, Any], where: str) -> tuple[type[C], dict[str, Any]]:
    """Returns the dataclass that the `name` of a section picks, and the section's options without it.

    Raises:
        JaxptError: as `find`; no name where the kind has no default.
    """
    options = {key: values[key] for key in values if key != "name"}
    name = values.get("name") or base.default
    if name is None:
        raise JaxptError(f"{where} lacks name; known: {', '.join(names(base))}")
    return find(base, name, f"{where}.name"), options


def chosen(field: dataclasses.Field, values: Mapping[str, Any], where: str) -> type[Choice] | None:
    """Returns the dataclass whose options the dict `field` holds, None where it is not one of `options_of`.

    Args:
        field: of a section's dataclass.
        values: the section's values.
        where: the section's name, for messages.

    Raises:
        JaxptError: as `find`.
    """
    if "options_of" not in field.metadata:
        return None
    base, key = field.metadata["options_of"]
    return find(base, str(values[key]), f"{where}.{key}")


def _choices(base: type[C]) -> Mapping[str, type[C]]:
    """The choices in the room of a kind, by name; their modules are imported."""
    out = {}
    for module in pkgutil.iter_modules(importlib.import_module(base.room).__path__):
        found = importlib.import_module(f"{base.room}.{module.name}")
        for cls in vars(found).values():
            if isinstance(cls, type) and issubclass(cls, base) and cls is not base and cls.__module__ == found.__name__:
                out[name_of(cls)] = cls
    return out


def _outside(base: type[C], name: str, where: str) -> type[C]:
    path, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name and not f"{path}.".startswith(f"{error.name}."):
            raise  # a module that the user's own code imports
        raise JaxptError(
            f"{where} is {name!r}: there is no module {error.name}; put its folder on PYTHONPATH"
        ) from None
    cls = getattr(module, attribute, None)
    if not isinstance(cls, type):
        raise JaxptError(f"{where} is {name!r}: {path} has no class {attribute}{nearest(attribute, vars(module))}")
    if not issubclass(cls, base) or not dataclasses.is_dataclass(cls):
        raise JaxptError(
            f"{where} is {name!r}: make it a frozen dataclass that inherits {base.__module__}:{base.__name__}"
        )
    return cls
