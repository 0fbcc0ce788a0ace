"""From the command line to a checked config: a Python file with `get_config()` and overrides of its keys."""

import importlib.util
import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from ml_collections import ConfigDict

from jaxpt.config import schema
from jaxpt.config.choice import importing
from jaxpt.config.hints import Value
from jaxpt.config.overrides import apply
from jaxpt.config.users_line import reason, users_line
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.digests import NAME, read_file

T = TypeVar("T")


def load(cls: type[T], file: str, overrides: Sequence[str] = (), log: Callable[[str], None] = print) -> T:
    """Reads `FILE.py[:arg]` (or a run's config.json), applies overrides and checks the result.

    Args:
        cls: the dataclass that states the keys, e.g. `jaxpt.training.config.RunConfig`.
        file: path of a Python file with `get_config()`, or `get_config(arg)` for `FILE.py:arg`; or a JSON file.
        overrides: `--config.key=value` flags in the syntax of ml_collections, `--config.stages[1].name=x` included.
        log: is given one line for each choice that a flag changes, where options of the old one are dropped.

    Raises:
        JaxptError: a missing file, an unknown key, a wrong type or a value out of range, named.
    """
    values = _read(file)
    schema.translate(cls, values)
    apply(cls, values, overrides, log)
    return schema.build(cls, values)


def _read(file: str) -> ConfigDict:
    path, _, argument = file.partition(":")
    if not Path(path).is_file():
        beside = Path(path).parent.glob("*.py")
        raise JaxptError(f"--config={file}: there is no file {path}{nearest(path, beside)}")
    if path.endswith(".json"):
        return _config_dict(file, _json(path))
    loader = SourceFileLoader("jaxpt_run_config", path)
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    if spec is None or not path.endswith(".py"):
        raise JaxptError(f"--config={file}: give a Python file (.py) with get_config(), or a .json file")
    module = importlib.util.module_from_spec(spec)

    def run() -> ModuleType:  # from its source: bytecode would lie beside it, and hide a change within the same second
        exec(loader.source_to_code(loader.get_data(path), path), module.__dict__)
        return module

    importing(run, f"--config={file}", path)
    values = _called(module, file, path, argument)
    if not isinstance(values, Mapping | ConfigDict):
        raise JaxptError(f"--config={file}: get_config() gave {values!r}, it must give a dict")
    return values if isinstance(values, ConfigDict) else _config_dict(file, values)


def _config_dict(file: str, values: Mapping[str, Value]) -> ConfigDict:
    try:
        return ConfigDict(values)
    except ValueError as error:  # a name with a dot in it
        raise JaxptError(f"--config={file}: {' '.join(str(error).split())}; write the name without it") from error


def _called(module: ModuleType, file: str, path: str, argument: str) -> Value:
    """What the file's `get_config` gives, called with the argument where there is one."""
    make = getattr(module, "get_config", None)
    if not callable(make):
        raise JaxptError(f"{path} has no function get_config()")
    parameters = inspect.signature(make).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1 or any(p.name in needed and p.kind is p.KEYWORD_ONLY for p in parameters):
        raise JaxptError(
            f"{path}: get_config({', '.join(needed)}) takes more than one argument, of which FILE:ARG gives one"
        )
    if argument and not parameters:
        raise JaxptError(f"--config={file}: get_config() of {path} takes no argument")
    variants = getattr(module, "VARIANTS", None)  # what the argument names, in configs that state it so
    there_are = f"; there are {', '.join(variants)}" if isinstance(variants, dict) else ""
    if not argument and needed:
        about = inspect.getdoc(make) or ""
        raise JaxptError(
            f"--config={file} needs an argument, {needed[0]}: --config={path}:{needed[0].upper()}"
            f"{f' ({about.splitlines()[0]})' if about else ''}{there_are}"
        )
    if argument and isinstance(variants, dict) and argument not in variants:
        raise JaxptError(f"--config={file}: {path} has no variant {argument!r}{nearest(argument, variants)}{there_are}")
    try:
        return make(argument) if argument else make()
    except JaxptError:
        raise
    except (Exception, SystemExit) as error:
        raise JaxptError(f"--config={file}: {users_line(error)}{reason(error)}") from error


def _json(path: str) -> dict[str, Value]:
    def distinct(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
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
