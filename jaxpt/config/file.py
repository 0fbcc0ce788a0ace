"""From the command line to a checked config: a Python file with `get_config()` and overrides of its keys."""

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxpt.config import schema
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.digests import NAME, read_file

T = TypeVar("T")

# what Python's conversions say, and what a person needs to know
WANTED = {
    "could not convert string to float": "it must be a number",
    "invalid literal for int": "it must be a whole number",
}


def load(cls: type[T], file: str, overrides: Sequence[str] = ()) -> T:
    """Reads `FILE.py[:arg]` (or a run's config.json), applies overrides and checks the result.

    Args:
        cls: the dataclass that states the keys, e.g. `jaxpt.training.config.RunConfig`.
        file: path of a Python file with `get_config()`, or `get_config(arg)` for `FILE.py:arg`; or a JSON file.
        overrides: `--config.key=value` flags in the syntax of ml_collections, `--config.stages[1].name=x` included.

    Raises:
        JaxptError: a missing file, an unknown key, a wrong type or a value out of range, named.
    """
    values = _read(file)
    schema.fill(cls, values)
    _override(cls, values, overrides)
    return schema.build(cls, values)


def _read(file: str) -> ConfigDict:
    path, _, argument = file.partition(":")
    if not Path(path).is_file():
        beside = Path(path).parent.glob("*.py")
        raise JaxptError(f"--config={file}: there is no file {path}{nearest(path, beside)}")
    if path.endswith(".json"):
        return ConfigDict(_json(path))
    spec = importlib.util.spec_from_file_location("jaxpt_run_config", path)
    if spec is None or spec.loader is None:
        raise JaxptError(f"--config={file}: give a Python file (.py) with get_config(), or a .json file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make = getattr(module, "get_config", None)
    if make is None:
        raise JaxptError(f"{path} has no function get_config()")
    takes = bool(inspect.signature(make).parameters)
    if argument and not takes:
        raise JaxptError(f"--config={file}: get_config() of {path} takes no argument")
    variants = getattr(module, "VARIANTS", None)  # what the argument names, in configs that state it so
    if argument and isinstance(variants, dict) and argument not in variants:
        raise JaxptError(
            f"--config={file}: {path} has no variant {argument!r}{nearest(argument, variants)}; "
            f"there are {', '.join(variants)}"
        )
    values = make(argument) if argument else make()
    if not isinstance(values, ConfigDict):
        values = ConfigDict(values)
    return values


def _json(path: str) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                raise JaxptError(f"--config={path} gives {name!r} twice; name each key and each source once")
        return dict(pairs)

    try:
        return json.loads(_content(Path(path)), object_pairs_hook=distinct)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise JaxptError(f"--config={path} is not JSON ({error})") from error


def _content(path: Path) -> bytes:
    """A file of the user's, or that of a run, which is checked."""
    if path.name == "config.json" and (path.parent / NAME).exists():
        return read_file(path.parent, path.name, "restore it, or copy it to a file of your own to change it")
    return path.read_bytes()


def _override(cls: type, values: ConfigDict, overrides: Sequence[str]) -> None:
    """Applies `--config.key=value` flags in place."""
    _drop_options(cls, values, overrides)
    overrides = [text for text in overrides if not _find(cls, values, text)]
    known = flags.FlagValues()
    try:
        with _argv(overrides):  # ml_collections reads the overridden keys from the process's arguments
            config_flags.DEFINE_config_dict("config", values, lock_config=True, flag_values=known)
            known(["jaxpt", *overrides])
    except flags.IllegalFlagValueError as error:
        told = _one_line(error).removeprefix("flag ")
        for raised, meant in WANTED.items():
            told = re.sub(f"{raised}.*", meant, told)
        raise JaxptError(told) from error
    except (flags.Error, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise JaxptError(f"{' '.join(overrides)}: {_one_line(error)}") from error


def _find(cls: type, values: ConfigDict, text: str) -> bool:
    """Walks to the key an override names, so that a mistyped one is told with its whole path and its neighbour.

    An optional section that the file leaves out is put there. A value of None is set here, as ml_collections reads it
    as text; returns whether it was.
    """
    match = re.match(r"^--(?:no)?config\.([^=]+)(=.*)?$", text)
    if not match:
        raise JaxptError(f"{text} is not an argument; overrides look like --config.key=value")
    node: Any = values
    parent, key, hint = None, "", cls
    where = "config"
    for part in re.findall(r"[^.\[\]]+|\[\d+\]", match[1]):
        if part.startswith("["):
            if not isinstance(node, list | tuple) or int(part[1:-1]) >= len(node):
                size = len(node) if isinstance(node, list | tuple) else 0
                raise JaxptError(f"{text}: {where} has {size} entries, there is no {where}{part}")
            node, where = node[int(part[1:-1])], f"{where}{part}"
            hint = schema.inside(hint, part)
            continue
        if node is None and dataclasses.is_dataclass(hint):
            node = _begin(parent, key, hint)
        if isinstance(node, ConfigDict):
            schema.begin(hint, part, node)
        if not isinstance(node, ConfigDict):
            raise JaxptError(f"{text}: {where} has no keys, it is {node!r}")
        if part not in node:
            keys = ", ".join(node.keys())
            known = [f.name for f in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else node.keys()
            told = nearest(part, known) or (f"; the keys are {keys}" if keys else "; add it in the config file")
            raise JaxptError(f"{where}.{part} is not a key{schema.why_not(hint, part) or told}")
        parent, key, hint = node, part, schema.inside(hint, part, node, where)
        node, where = node[part], f"{where}.{part}"
    if match[2] != "=None" or not isinstance(parent, ConfigDict):
        return False
    with parent.ignore_type():
        parent[key] = None
    return True


def _drop_options(cls: type, values: ConfigDict, overrides: Sequence[str]) -> None:
    """Drops the options that the file gives a choice in whose place a flag puts another, and says so in a line."""
    for text in overrides:
        path, _, name = text.removeprefix("--config.").partition("=")
        *parts, key = re.findall(r"[^.\[\]]+|\[\d+\]", path) or [""]
        node, hint = values, cls
        for part in parts:
            at = int(part[1:-1]) if part.startswith("[") else part
            inside = isinstance(node, list | tuple) and isinstance(at, int) and at < len(node)
            if not inside and not (isinstance(node, ConfigDict) and at in node):
                break  # told where the flag itself is read
            node, hint = node[at], schema.inside(hint, part)
        options = schema.options_named_by(hint, key)
        if options is None or not isinstance(node, ConfigDict) or node.get(key) == name:
            continue
        if given := list(node[options] or ()):
            print(f"{text}: the options of {node[key]!r} in the config file are dropped ({', '.join(given)})")
        with node.unlocked(), node.ignore_type():
            node[key], node[options] = name, ConfigDict()


def _begin(parent: Any, key: str, cls: type) -> ConfigDict:
    """Puts a section of which nothing is stated yet where there was None."""
    with parent.unlocked():
        del parent[key]
        parent[key] = schema.empty(cls)
    return parent[key]


@contextlib.contextmanager
def _argv(arguments: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["jaxpt", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
