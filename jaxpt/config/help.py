"""Every key of a config with its type, default and meaning, and every choice with its options, from the dataclasses."""

import re
import textwrap
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_origin

from jaxpt.config.choice import Choice, choices, is_kind
from jaxpt.config.hints import MISSING, Key, entries_of, is_section, is_tuple, keys_of, words
from jaxpt.config.schema import plain
from jaxpt.errors import JaxptError, nearest

WIDTH = 100  # columns
TYPE = 22  # columns of a type at most; a longer list of values goes to the line's end
DEFAULT = 16  # columns of a default at most; a longer one likewise


@dataclass
class SectionHelp:
    """A section: its path, what it is, and its keys under headings (of a kind: what all have, and each choice)."""

    path: str
    doc: str
    parts: list[tuple[str, list[Key]]] = field(default_factory=list)


def describe(cls: type, section: str = "") -> str:
    """Returns the help of a config, or of one section of it, in lines of at most 100 columns.

    Args:
        cls: the dataclass that states the keys.
        section: for instance `optimizer` or `stages.schedule`; empty: everything.

    Raises:
        JaxptError: there is no such section; its nearest neighbour is named.
    """
    blocks = list(_blocks(cls, "", _first_sentence(cls), _homes(cls), set()))
    if section:
        wanted = _bare(section.removeprefix("config."))
        known = [_bare(block.path) for block in blocks]
        blocks = [b for b, path in zip(blocks, known) if f".{wanted}." in f".{path}."]
        if not blocks:
            hint = nearest(wanted, known) or f"; there are {', '.join(path for path in known if path)}"
            raise JaxptError(f"--help-config={section}: there is no section {section}{hint}")
    return "\n\n".join([_head(blocks), *(_text(block) for block in blocks)])


def _head(blocks: Sequence[SectionHelp]) -> str:
    """How to read the lines that follow."""
    text = "Set a key with --config.KEY=VALUE. A line: the key, its type, its default, what it means."
    if any("[N]" in block.path for block in blocks):
        text += " [N] counts from 0."
    if any(".NAME" in block.path for block in blocks):
        text += " NAME is any name of yours."
    names = {heading.partition("=")[0] for block in blocks for heading, _ in block.parts if "=" in heading}
    if names:
        text += f" `{'`, `'.join(sorted(names))}` may also be package.module:Class, a dataclass of your own."
    return textwrap.fill(text, WIDTH)


def _bare(path: str) -> str:
    return path.replace("[N]", "").replace(".NAME", "")


def _homes(cls: type) -> dict[type, str]:
    """Where the keys of each section are told: at the outermost of its places, to which the others refer."""
    homes, waiting = {cls: ""}, deque([cls])
    while waiting:
        here = waiting.popleft()
        for _, key in _inner(here):
            hint, suffix = _inside(key)
            if hint is not None and hint not in homes:
                homes[hint] = f"{homes[here]}.{key.name}{suffix}".lstrip(".")
                waiting.append(hint)
    return homes


def _inner(cls: type) -> list[tuple[str, Key]]:
    """The keys of a section, of a kind those of each choice, and for which choice there is one."""
    own = list(keys_of(cls).values())
    if not is_kind(cls):
        return [("", key) for key in own]
    options = [(name, keys_of(choice)) for name, choice in sorted(choices(cls).items())]
    return [
        (f"with name={name}: ", key) for name, keys in options for key in keys.values() if key.name not in keys_of(cls)
    ]


def _blocks(cls: type, path: str, doc: str, homes: Mapping[type, str], told: set[type]) -> Iterator[SectionHelp]:
    """The block of a section, then those of the sections within it; one that is told elsewhere is referred to."""
    if homes[cls] != path or cls in told:
        yield SectionHelp(path, f"{doc}; keys as in {homes[cls]}")
        return
    told.add(cls)
    block = SectionHelp(path, doc)
    own = list(keys_of(cls).values())
    if not is_kind(cls):
        block.parts = [("", [key for key in own if not _inside(key)[0]])]
    else:
        base: type[Choice] = cls
        if own:
            block.parts = [(f"every {base.kind}:", own)]
        for name, choice in sorted(choices(base).items()):
            options = [key for key in keys_of(choice).values() if key.name not in keys_of(base)]
            mark = " (default)" if name == base.default else ""
            block.parts.append(
                (f"name={name}{mark}: {_first_sentence(choice)}", [k for k in options if not _inside(k)[0]])
            )
    yield block
    for owner, key in _inner(cls):
        if key.options_of:
            yield _options(key, path)
        hint, suffix = _inside(key)
        if hint is not None:
            here = f"{path}.{key.name}{suffix}".lstrip(".")
            yield from _blocks(hint, here, owner + (key.doc or _first_sentence(hint)), homes, told)


def _options(key: Key, path: str) -> SectionHelp:
    """The block of a dict that holds options of a choice which another key names."""
    base, by = key.options_of or (Choice, "")
    block = SectionHelp(f"{path}.{key.name}", key.doc or f"options of the {base.kind} that {by} names")
    for name, choice in sorted(choices(base).items()):
        own = [k for k in keys_of(choice).values() if k.name not in keys_of(base)]
        block.parts.append((f"{by}={name}: {_first_sentence(choice)}", own))
    return block


def _inside(key: Key) -> tuple[type | None, str]:
    """The section that a key holds, one or many, and how its entries are written."""
    if is_section(key.hint):
        return key.hint, ""
    entry = entries_of(key.hint)
    if is_section(entry):
        return entry, "[N]" if is_tuple(key.hint) else ".NAME"
    return None, ""


def _first_sentence(cls: type) -> str:
    """The first sentence of a class's docstring; empty where a dataclass has none of its own."""
    doc = (cls.__doc__ or "").strip()
    sentences = " ".join(doc.split("\n\n")[0].split())
    return "" if doc.startswith(f"{cls.__name__}(") else re.split(r"\.(?: |$)", sentences)[0]


def _text(block: SectionHelp) -> str:
    lines = textwrap.wrap(f"{block.path or 'config'}: {block.doc}".rstrip(": "), WIDTH, subsequent_indent="  ")
    keys = [key for _, part in block.parts for key in part]
    widths = [max((len(_cells(key)[i]) for key in keys), default=0) for i in range(3)]
    for heading, part in block.parts:
        if heading:
            lines += textwrap.wrap(heading, WIDTH, initial_indent="  ", subsequent_indent="    ")
        indent = "    " if heading else "  "
        for key in part:
            lead = indent + "  ".join(cell.ljust(width) for cell, width in zip(_cells(key), widths))
            rest = " " * (len(lead) + 2)
            lines += textwrap.wrap(_doc(key), WIDTH, initial_indent=f"{lead}  ", subsequent_indent=rest) or [
                lead.rstrip()
            ]
    return "\n".join(lines)


def _cells(key: Key) -> Sequence[str]:
    return key.name, _type(key), _default(key)


def _type(key: Key) -> str:
    text = words(key.hint)
    return "one of" if len(text) > TYPE and get_origin(key.hint) is Literal else text


def _doc(key: Key) -> str:
    text = ": ".join(filter(None, [key.doc, words(key.hint) if _type(key) == "one of" else ""]))
    return f"{text}; default {_value(key.default)}".lstrip("; ") if _default(key) == "…" else text


def _default(key: Key) -> str:
    text = "required" if key.default is MISSING else _value(key.default)
    return text if len(text) <= DEFAULT else "…"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
    return str(tuple(plain(value))) if isinstance(value, tuple) else f'"{value}"' if value == "" else str(value)
