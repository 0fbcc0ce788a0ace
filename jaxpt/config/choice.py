"""A choice by name: each thing to choose is a frozen dataclass in a file of its own; the file's name is the choice's.

The base class of a kind names the room where its choices lie. No registry is kept: a new file in the room is a new
choice, and `package.module:Class` is one that lies outside this repository, in the current folder or on PYTHONPATH.
Such a module is the user's own code: none is taken from a folder that holds a run or a model, which may come from
anywhere.
"""

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeGuard, TypeVar, overload

from jaxpt.config.hints import Hint, Value
from jaxpt.config.users_line import reason, users_line
from jaxpt.errors import JaxptError, nearest

C = TypeVar("C", bound="Choice")
T = TypeVar("T")

MODEL_FILES = ("model.json", "lineage.json", "*.safetensors")  # one of them is in each run, bundle and model


@overload
def option(default: T, doc: str = "", **facts: object) -> T: ...


@overload
def option(*, doc: str = "", **facts: object) -> Any: ...


def option(default: Value = dataclasses.MISSING, doc: str = "", **facts: object) -> Any:
    """Declares an option of a choice or a section: a field with one line that help shows.

    Without `default` it must be given; a choice that has such options, where its base class has defaults, is a
    `dataclass(frozen=True, kw_only=True)`. `facts` are further things that the kind wants to know of the option; they
    lie in the field's metadata.
    """
    metadata = {"doc": doc, **facts}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def choice_option(base: type[C], doc: str = "") -> C:
    """Declares a section that picks a choice: the kind's default where a config says nothing."""

    def default() -> C:
        if base.default is None:
            raise JaxptError(f"there is no {base.kind} by default; known: {', '.join(names(base))}")
        return find(base, base.default, base.kind)()

    return dataclasses.field(default_factory=default, metadata={"doc": doc})


def options_of(base: type["Choice"], key: str, doc: str = "") -> dict[str, Value]:
    """Declares a dict that holds options of a choice which another key of its section names.

    The dict holds only what is stated, so a required option may be left out; whoever builds the choice adds the rest.

    Args:
        base: the base class of the kind.
        key: the section's key that names the choice.
        doc: one line that help shows.
    """
    return dataclasses.field(default_factory=dict, metadata={"doc": doc, "options_of": (base, key)})


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the base class of each kind of thing inherits: `class Optimizer(Choice, kind="optimizer", room=PACKAGE)`.

    Choices of the kind inherit from the base class, as frozen dataclasses whose fields are their options; fields of the
    base class are options that all of the kind have. `default` is the name of the choice where a config gives none.
    A check in `__post_init__` raises a JaxptError that begins with the option's name; where it lies in the config is
    put before it.
    """

    kind: ClassVar[str]
    room: ClassVar[str]
    base: ClassVar[type["Choice"]]
    default: ClassVar[str | None]

    def __init_subclass__(
        cls, kind: str | None = None, room: str | None = None, default: str | None = None, **more: object
    ) -> None:
        """Notes the kind, the room and the default of a base class."""
        super().__init_subclass__(**more)
        if kind is not None and room is not None:
            cls.kind, cls.room, cls.base, cls.default = kind, room, cls, default

    @property
    def name(self) -> str:
        """What a config calls this choice: its file's name in the room, or `package.module:Class`."""
        return name_of(type(self))


def is_kind(hint: Hint) -> TypeGuard[type[Choice]]:
    """Whether `hint` is the base class of a kind, so that a section of this type has a `name`."""
    return isinstance(hint, type) and issubclass(hint, Choice) and hint.__dict__.get("base") is hint


def name_of(cls: type[Choice]) -> str:
    """Returns the name under which `find` returns `cls`."""
    room, _, file = cls.__module__.rpartition(".")
    return file.rstrip("_") if room == cls.room else f"{cls.__module__}:{cls.__qualname__}"


def names(base: type[Choice]) -> list[str]:
    """Returns the names in the room of a kind, sorted: those of its files that define a choice."""
    return sorted(choices(base))


def choices(base: type[C]) -> dict[str, type[C]]:
    """Returns the choices in the room of a kind, by name; all its modules are imported."""
    classes = {name: _in_file(base, module) for name, module in _files(base).items()}
    return {name: cls for name, cls in classes.items() if cls is not None}


def find(base: type[C], name: Value, where: str) -> type[C]:
    """Returns the dataclass that `name` picks.

    Args:
        base: the base class of the kind.
        name: a file's name in the room, or `package.module:Class` of the user's own code.
        where: the config key, for messages.

    Raises:
        JaxptError: an unknown name, with its nearest neighbour; a module or class that is not there or is of another
            kind.
    """
    if not isinstance(name, str):
        raise JaxptError(f"{where} is {name!r}, it must be a name: {', '.join(names(base))}")
    if ":" in name:
        return _outside(base, name, where)
    files = _files(base)
    cls = _in_file(base, files[name]) if name in files else None
    if cls is None:
        known = names(base)
        article = "an" if base.kind[0] in "aeiou" else "a"
        hint = nearest(name, known) or f"; known: {', '.join(known)}, or package.module:Class of your own"
        raise JaxptError(f"{where} is {name!r}, which is not {article} {base.kind}{hint}")
    return cls


def pick(base: type[C], values: Mapping[str, Value], where: str) -> tuple[type[C], dict[str, Value]]:
    """Returns the dataclass that the `name` of a section picks, and the section's options without it.

    Raises:
        JaxptError: as `find`; no name where the kind has no default.
    """
    options = {key: values[key] for key in values if key != "name"}
    name = values.get("name") or base.default
    if name is None:
        raise JaxptError(f"{where} lacks name; known: {', '.join(names(base))}")
    return find(base, name, f"{where}.name"), options


def has_option(base: type[Choice], key: str) -> list[str]:
    """Returns the names of the choices in the room that have the option `key`."""
    return [n for n, cls in sorted(choices(base).items()) if key in {f.name for f in dataclasses.fields(cls)}]


def _files(base: type[Choice]) -> dict[str, str]:
    """The files of the room: the name of a choice, and of the module that may hold it."""
    room = importlib.import_module(base.room)
    return {m.name.rstrip("_"): f"{base.room}.{m.name}" for m in pkgutil.iter_modules(room.__path__)}


def _in_file(base: type[C], module: str) -> type[C] | None:
    """The choice that a file of the room defines: the last public one, as others may be what it builds on."""
    defined = vars(importing(lambda: importlib.import_module(module), f"{base.kind} {module}", module)).values()
    own = [c for c in defined if isinstance(c, type) and issubclass(c, base) and c.__module__ == module]
    public = [c for c in own if c is not base and not c.__name__.startswith("_")]
    return public[-1] if public else None


def _outside(base: type[C], name: str, where: str) -> type[C]:
    path, _, attribute = name.partition(":")
    if not all((*path.split("."), attribute)) or "/" in path or Path(path).is_file():
        raise JaxptError(f"{where} is {name!r}, it must look like package.module:Class, with dots and without .py")
    _refuse_model_folder(path, f"{where} is {name!r}")
    module = importing(lambda: importlib.import_module(path), f"{where} is {name!r}", path)
    cls = getattr(module, attribute, None)
    if not isinstance(cls, type):
        raise JaxptError(f"{where} is {name!r}: {path} has no class {attribute}{nearest(attribute, vars(module))}")
    bare = "__dataclass_fields__" not in vars(cls) and "__annotations__" in vars(cls)  # its options would be ignored
    if not issubclass(cls, base) or cls is base or bare:
        raise JaxptError(
            f"{where} is {name!r}: make it a frozen dataclass that inherits {base.__module__}:{base.__name__}"
        )
    return cls


def _refuse_model_folder(path: str, what: str) -> None:
    """Raises a JaxptError where a module lies in the folder of a run or a model; nothing of it is executed."""
    try:
        spec = importlib.util.find_spec(path.partition(".")[0])
    except (ImportError, ValueError):
        return  # importing it says why
    for folder in [Path(p) for p in (spec.submodule_search_locations or [spec.origin or ""])] if spec else ():
        if any(True for pattern in MODEL_FILES for _ in folder.parent.glob(pattern)):
            raise JaxptError(
                f"{what}: {folder} lies in the folder of a run or a model, whose code is never executed; "
                f"if it is yours, move it to a folder of its own"
            )


def importing(load: Callable[[], ModuleType], what: str, path: str) -> ModuleType:
    """Returns what `load` imports; what the user's own code raises meanwhile becomes one line.

    Raises:
        JaxptError: there is no such module, or its code fails.
    """
    try:
        return load()
    except JaxptError:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{path}.".startswith(f"{error.name}."):
            raise JaxptError(
                f"{what}: there is no module {error.name} in the current folder or on Python's path; put its folder "
                f"there: PYTHONPATH=FOLDER before the command"
            ) from error
        raise JaxptError(f"{what}: importing {path} failed: {users_line(error)}{error}") from error
    except (Exception, SystemExit) as error:  # a script without `if __name__ == "__main__"` may end the process
        raise JaxptError(f"{what}: importing {path} failed: {users_line(error)}{reason(error)}") from error
