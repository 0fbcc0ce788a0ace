"""`--config.key=value` flags put into a config, in the syntax of ml_collections, each read as the type of its key.

Names are put in first: a flag that picks another choice drops what the file says of the old one's options, so that the
other flags meet the options of the new one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict, FieldReference

from jaxpt.config import earlier
from jaxpt.config.choice import Choice, find, is_kind, names, pick
from jaxpt.config.earlier import Path
from jaxpt.config.hints import MISSING, Hint, Key, Value, entries_of, is_dict, is_section, keys_of, options_named_by
from jaxpt.config.literals import read
from jaxpt.config.schema import chosen, plain, translated, unknown_key
from jaxpt.errors import JaxptError, nearest

_FLAG = re.compile(r"--(no)?config\.([^=]+?)(?:=(.*))?", re.DOTALL)
_PART = re.compile(r"""\.([^.\[\]]+)|\[(-?\d+)\]|\[["']([^"']+)["']\]""")


@dataclass(frozen=True)
class Override:
    """A flag: as it was typed, the path of its key, and what it gives (True or False where it has none)."""

    text: str
    path: Path
    values: tuple[str | bool, ...]


@dataclass(frozen=True)
class KeyPlace:
    """Where a walk has come to: what is there (MISSING: nothing), how it is replaced, and what it must be."""

    value: Value
    put: Callable[[Value], None]
    hint: Hint
    path: Path

    @property
    def where(self) -> str:
        """The place as messages name it."""
        return "config" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)


def apply(cls: type, values: ConfigDict, flags: Sequence[str], log: Callable[[str], None] = print) -> None:
    """Puts flags into `values`, in place.

    Args:
        cls: the dataclass that states the keys.
        values: a config that `jaxpt.config.schema.translate` wrote with the keys of today.
        flags: `--config.key=value`, `--config.key`, `--noconfig.key`; a later one of the same key replaces an earlier,
            but for a list, whose entries they then are.
        log: is given one line for each choice whose options in the file are dropped.

    Raises:
        JaxptError: no such key, or a value of another type.
    """
    walk = _Walk(cls, values, [_parsed(cls, text) for text in flags], log)
    for flag in walk.flags:
        walk.put(flag)


def _parsed(cls: type, text: str) -> Override:
    match = _FLAG.fullmatch(text)
    if not match:
        raise JaxptError(f"{text} is not an argument; overrides look like --config.key=value")
    no, key, value = match.groups()
    parts = list(_PART.finditer(f".{key}"))
    if "".join(part[0] for part in parts) != f".{key}" or (no and value is not None):
        form = f"--noconfig.{key} takes no value" if no else "keys look like config.stages[0].name"
        raise JaxptError(f"{text}: {form}")
    if dotted := next((part[3] for part in parts if part[3] and "." in part[3]), None):
        raise JaxptError(f"{text}: the name {dotted!r} holds a dot, which names of a config cannot; write it without")
    path = tuple(int(part[2]) if part[2] else part[1] or part[3] for part in parts)
    return Override(text, earlier.path_of_today(cls, path), (not no if value is None else value,))


class _Walk:
    """All flags of a command on their way into the config."""

    def __init__(self, cls: type, values: ConfigDict, flags: Sequence[Override], log: Callable[[str], None]):
        """Orders the flags: names first, with what is put in whole around them, the outermost first."""
        joined: dict[Path, Override] = {}
        for flag in flags:
            before = joined.pop(flag.path, None)
            joined[flag.path] = Override(flag.text, flag.path, (*(before.values if before else ()), *flag.values))
        self._given = list(joined)
        named = [path for path in joined if path[-1] == "name" or _names_options(cls, path)]
        first = [f for f in joined.values() if any(path[: len(f.path)] == f.path for path in named)]
        self.flags = sorted(first, key=lambda f: len(f.path)) + [f for f in joined.values() if f not in first]
        self._top = KeyPlace(values, lambda value: None, cls, ())
        self._log = log

    def put(self, flag: Override) -> None:
        """Puts one flag's value at its key."""
        at, path = self._top, flag.path
        while path:
            if is_kind(at.hint) and path == ("name",):
                return self._choose(at, flag)
            if is_section(at.hint):
                path = earlier.path_of_today(_picked(at), path)
                options = options_named_by(at.hint, str(path[0]))
                if options and not path[1:]:
                    return self._choose_for(at, options, flag)
            at, path = self._enter(at, path, flag), path[1:]
        value = read(flag.text, flag.values, at.hint, None if at.value is MISSING else at.value)
        at.put(translated(at.hint, value, at.where))
        return None

    def _choose(self, at: KeyPlace, flag: Override) -> None:
        """Picks a choice by name; the file's options of another that was picked before are dropped."""
        base = at.hint
        assert is_kind(base)
        node = self._section(at, flag)
        new = find(base, flag.values[-1], f"{at.where}.name")
        before = node.get("name") or base.default
        if before is not None and find(base, before, f"{at.where}.name") is not new:
            self._drop(node, [key for key in node if key != "name" and key not in keys_of(base)], flag, before)
        _put(node, "name", flag.values[-1])

    def _choose_for(self, at: KeyPlace, options: Key, flag: Override) -> None:
        """Likewise, where another key of the section holds the options."""
        base, by = options.options_of or (Choice, "")
        node = self._section(at, flag)
        new, before = find(base, flag.values[-1], f"{at.where}.{by}"), node.get(by)
        if before is not None and node.get(options.name) and find(base, before, f"{at.where}.{by}") is not new:
            self._drop(node[options.name], list(node[options.name]), flag, before)
        _put(node, by, flag.values[-1])

    def _drop(self, node: ConfigDict, keys: Sequence[str], flag: Override, choice: str) -> None:
        if not keys:
            return
        with node.unlocked():
            for key in keys:
                del node[key]
        self._log(f"{flag.text} drops what the config says of {choice}: {', '.join(keys)}")

    def _enter(self, at: KeyPlace, path: Path, flag: Override) -> KeyPlace:
        """Goes one step down, to the key or the entry that `path` begins with."""
        part, inner = path[0], (*at.path, path[0])
        if isinstance(part, int):
            return self._entry(at, part, flag)
        node = self._section(at, flag)

        def put(value: Value) -> None:
            _put(node, part, value)

        if not is_section(at.hint):
            hint = entries_of(at.hint) if is_dict(at.hint) else Any
            if part not in node:
                self._begin(hint, node, path, at)
            return KeyPlace(node.get(part, MISSING), put, hint, inner)
        picked = _picked(at)
        key = keys_of(picked).get(part)
        if key is None:
            raise unknown_key(picked, part, at.where, ["name", *keys_of(picked)] if is_kind(at.hint) else None)
        if part not in node and path[1:] and key.default not in (MISSING, None):
            put(_stated(key))
        hint = chosen(key, node, at.where) if key.options_of else key.hint
        return KeyPlace(node.get(part, MISSING), put, hint, inner)

    def _section(self, at: KeyPlace, flag: Override) -> ConfigDict:
        """The section or dict at a place, begun where there is none."""
        if isinstance(at.value, ConfigDict):
            return at.value
        if (at.value is not None and at.value is not MISSING) or not (
            is_section(at.hint) or is_dict(at.hint) or at.hint is Any
        ):
            if isinstance(at.value, list | tuple):
                way = f"a list; its entries are {at.where}[0] …" if at.value else "an empty list"
                raise JaxptError(f"{flag.text}: {at.where} has no keys, it is {way}")
            shown = "not set" if at.value is MISSING else repr(at.value)
            raise JaxptError(f"{flag.text}: {at.where} has no keys, it is {shown}")
        node = ConfigDict()
        at.put(node)
        return node

    def _entry(self, at: KeyPlace, index: int, flag: Override) -> KeyPlace:
        entries = at.value if isinstance(at.value, list | tuple) else ()
        if not -len(entries) <= index < len(entries):
            raise JaxptError(f"{flag.text}: {at.where} has {len(entries)} entries, there is no {at.where}[{index}]")

        def put(value: Value) -> None:
            changed = list(entries)
            changed[index] = value
            at.put(type(entries)(changed))

        return KeyPlace(entries[index], put, entries_of(at.hint) or Any, (*at.path, index))

    def _begin(self, hint: Hint, node: ConfigDict, path: Path, at: KeyPlace) -> None:
        """Adds an entry to a dict, whose names are free.

        A section is added where the flags give all that it must have (of a choice its name, unless the entry is called
        like one). A name near one that is there may be meant so or mistyped, which a line says.
        """
        name, entry = path[0], (*at.path, path[0])
        below = {g[len(entry)] for g in self._given if g[: len(entry)] == entry and len(g) > len(entry)}
        required: set[Any] = set()
        if is_kind(hint):
            if name in names(hint):
                _put(node, name, ConfigDict({"name": name}))
                return
            required = {"name"}
        elif is_section(hint):
            required = {key.name for key in keys_of(hint).values() if key.required}
        if entry in self._given and (is_section(hint) or is_dict(hint)):
            return
        if not required <= below:
            needs = f"; a new one needs {', '.join(sorted(required))}"
            raise JaxptError(f"{unknown_key(at.hint, str(name), at.where, list(node))}{needs}")
        elsewhere = any(name in g[:-1] for g in self._given if g[: len(entry)] != entry)
        if not required and not elsewhere and (near := nearest(str(name), node)):
            self._log(f"{at.where}.{name} is a new name{near}")


def _picked(at: KeyPlace) -> type:
    """The dataclass of a section: of a kind what its name picks."""
    if not is_kind(at.hint):
        assert isinstance(at.hint, type)
        return at.hint
    return pick(at.hint, at.value if isinstance(at.value, ConfigDict) else {}, at.where)[0]


def _names_options(cls: Any, path: Path) -> bool:
    """Whether the key at `path` names a choice whose options another key of its section holds."""
    for part in path[:-1]:
        key = keys_of(cls).get(str(part)) if is_section(cls) else None
        cls = key.hint if key else entries_of(cls)
    return is_section(cls) and options_named_by(cls, str(path[-1])) is not None


def _stated(key: Key) -> Value:
    """What stands at a key that a config leaves out, as far as it is not the default of what stands within it."""
    value = key.default
    if is_section(type(value)):
        named = {"name": value.name} if isinstance(value, Choice) else {}
        own = keys_of(type(value))
        return ConfigDict(named | {k: plain(v) for k in own if (v := getattr(value, k)) != own[k].default})
    made = plain(value)
    return translated(key.hint, ConfigDict(made) if isinstance(made, dict) else made, key.name)


def _put(node: ConfigDict, key: str, value: Value) -> None:
    """Sets a key; what refers to it moves along."""
    refers = key in node and isinstance(earlier.raw_items(node)[key], FieldReference)
    with node.unlocked(), node.ignore_type():
        if key in node and not refers:
            del node[key]
        node[key] = value
