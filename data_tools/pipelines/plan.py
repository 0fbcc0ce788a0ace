"""A pipeline: steps in order, each a command of `jaxpt-data` with options and a folder; what is done, what is left.

The key of a step is a hash of its command, its options, the content of the files that these name, and the keys of the
steps it reads from. `steps/NAME.json` holds the key under which the step's folder was begun, and whether it is done.
A note in the folder itself says which pipeline and step made it: only such a folder is ever removed.
"""

import argparse
import hashlib
import importlib
import json
import pkgutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from data_tools import commands
from data_tools.io import made, storage
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import SUFFIXES
from jaxpt.data.fingerprints import content_fingerprint
from jaxpt.data.text_files import list_files
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.names import path_component

SHARED = ("text_field", "tokenizer", "eval", "workers", "alarm")  # given to every step that has such a flag
HOW = ("workers", "batch_size", "skip_existing", "alarm")  # flags that never change an output


@dataclass(frozen=True)
class Step:
    """One step: a command of `jaxpt-data`, its folder's name (default: the command's), its inputs and its options.

    `inputs` names earlier steps, or paths; by default a step reads what the one before it wrote, the first the
    pipeline's input.
    A text among the options may hold `{NAME}`, the folder of an earlier step.
    """

    command: str
    name: str = ""
    inputs: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """Steps from raw text on; all fields but these two go to every step whose command has such a flag."""

    input: str
    steps: tuple[Step, ...]
    text_field: str = "text"
    tokenizer: str | None = None
    eval: str | None = None  # evaluation sets that must not be in the text
    workers: int = 0  # one per core
    alarm: float = 0.5  # a source that loses more than this share is warned of


@dataclass(frozen=True)
class Planned:
    """A step with everything decided: its folder, the arguments of its command, its key."""

    name: str
    command: str
    folder: str
    argv: tuple[str, ...]
    key: str


def known_commands() -> list[str]:
    """Returns the commands that can be steps."""
    return [m.name for m in pkgutil.iter_modules(commands.__path__) if m.name not in ("run", "inspect")]


def module(command: str) -> Any:
    """Returns the module of a command."""
    return importlib.import_module(f"{commands.__name__}.{command}")


def plan(pipeline: Pipeline, workdir: str) -> list[Planned]:
    """Checks every step against its command's flags and returns them in order, before anything runs.

    Raises:
        JaxptError: an unknown command, option or input, or a value that the command refuses.
    """
    if not pipeline.steps:
        raise JaxptError("config.steps is empty; name at least one command of jaxpt-data")
    _check_notes(workdir)
    memo = Path(workdir) / "steps" / "files.json"
    planned: dict[str, Planned] = {}
    for i, step in enumerate(pipeline.steps):
        where = f"config.steps[{i}]"
        known = known_commands()
        if step.command not in known:
            hint = nearest(step.command, known) or f"; known: {', '.join(known)}"
            raise JaxptError(f"{where}.command={step.command} is unknown{hint}")
        name = step.name or step.command
        path_component(name, f"{where}.name", (*planned, "steps", "report", "files", "pipeline"))
        inputs = step.inputs or tuple(list(planned)[-1:]) or (pipeline.input,)
        before = []
        for other in inputs:
            if other in planned:
                before.append(planned[other].key)
            elif "/" in other or "*" in other or "." in other:
                before.append(content_fingerprint(_files(other), memo))
            else:
                hint = nearest(other, planned)
                raise JaxptError(f"{where}.inputs: there is no step {other!r} before this one{hint}, nor is it a path")
        folder = storage.join(workdir, name)
        check_outputs(
            {f"{where}.inputs": ",".join(n for n in inputs if n not in planned)}, {f"{where}: folder": folder}
        )
        paths = ",".join(planned[n].folder if n in planned else n for n in inputs)
        options = _options(step, pipeline, {n: p.folder for n, p in planned.items()})
        argv = _argv(step.command, where, {"input": paths, "output": folder, **options})
        facts = {k: v for k, v in options.items() if k not in HOW}
        named = _named_files(facts.values(), workdir)
        before += [planned[n].key for n in planned if "{" + n + "}" in str(step.options)]
        content = content_fingerprint(named, memo) if named else ""
        key = hashlib.sha256(json.dumps([step.command, facts, content, before], sort_keys=True, default=str).encode())
        planned[name] = Planned(name, step.command, folder, argv, key.hexdigest())
    return list(planned.values())


def _options(step: Step, pipeline: Pipeline, folders: Mapping[str, str]) -> dict[str, Any]:
    """Returns a step's options with those of the pipeline that its command knows, folders put in."""
    flags = {a.dest for a in module(step.command).parser()._actions}
    shared = {k: getattr(pipeline, k) for k in SHARED if k in flags and getattr(pipeline, k) is not None}

    def placed(value: Any) -> Any:
        if isinstance(value, str):
            for name, folder in folders.items():
                value = value.replace("{" + name + "}", folder)
            return value
        if isinstance(value, Mapping):
            return {k: placed(v) for k, v in value.items()}
        return [placed(v) for v in value] if isinstance(value, list | tuple) else value

    resumes = {"skip_existing": True} if "skip_existing" in flags else {}
    return {**shared, **resumes, **{k: placed(v) for k, v in step.options.items()}}


def _argv(command: str, where: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the options as the command's arguments, after the command's own parser has taken them."""
    parser = module(command).parser()
    actions = {a.dest: a for a in parser._actions if a.option_strings}
    argv: list[str] = []
    for name, value in options.items():
        if name not in actions:
            hint = nearest(name, actions) or f"; it has {', '.join(sorted(actions))}"
            raise JaxptError(f"{where}.options.{name}: jaxpt-data {command} has no --{name}{hint}")
        argv += _flag(actions[name], value)

    def refuse(message: str) -> NoReturn:
        raise JaxptError(f"{where} ({command}): {message}")

    parser.error = refuse
    parser.parse_args(argv)
    return tuple(argv)


def _flag(action: argparse.Action, value: Any) -> list[str]:
    flag = action.option_strings[0]
    if action.nargs == 0:  # a switch
        return [flag] if value else []
    if value is None:
        return []
    if isinstance(value, float) and value.is_integer() and action.type is int:
        value = int(value)  # configs hold whole numbers as floats
    if isinstance(value, Mapping):
        value = [f"{k}={v}" for k, v in value.items()]
    if isinstance(value, list | tuple):
        if isinstance(action, argparse._AppendAction):
            return [f"{flag}={v}" for v in value]
        value = ",".join(map(str, value))
    return [f"{flag}={value}"]


def _files(pattern: str) -> list[str]:
    return sorted({path for part in pattern.split(",") for path in list_files(part.strip(), SUFFIXES)})


def _named_files(values: Any, workdir: str) -> list[str]:
    """Returns the files outside the workdir that options name: a change of their content is a change of the step."""
    found: list[str] = []
    for value in values:
        for part in value.split(",") if isinstance(value, str) and "/" in value else ():
            path = Path(part)
            if path.is_relative_to(workdir):
                continue  # what another step wrote: its key counts
            if path.is_dir():
                found += [str(f) for f in sorted(path.rglob("*")) if f.is_file()]
            elif path.is_file():
                found.append(str(path))
            elif "*" in part:
                found += _files(part)
    return found


def state(step: Planned, workdir: str) -> str:
    """Returns "done", "begun", or "to do" (also where the step was done with other options or inputs)."""
    note = storage.read_json(storage.join(workdir, "steps", f"{step.name}.json")) or {}
    if note.get("key") != step.key:
        return "to do"
    return "done" if note.get("done") else "begun"


def run(steps: Sequence[Planned], workdir: str) -> None:
    """Runs what is not done. A step begun with the same key goes on; what another key left is removed first.

    Raises:
        JaxptError: a step failed, or its folder holds what this pipeline did not make.
    """
    pipeline = _identity(workdir)
    for step in steps:
        if state(step, workdir) != "done":
            _check_ours(step, workdir, pipeline)  # before hours of earlier steps
    for number, step in enumerate(steps):
        was = state(step, workdir)
        if was == "done":
            continue
        whole = step.command == "pack" and not any(a.startswith("--by=") for a in step.argv)  # no folder before its end
        mark = {"pipeline": pipeline, "step": step.name, "command": step.command}
        facts = {"key": step.key, "number": number, "argv": step.argv}
        note = storage.join(workdir, "steps", f"{step.name}.json")
        _check_ours(step, workdir, pipeline)
        if was == "to do":
            storage.remove(step.folder)
        if not whole:
            made.write_note(step.folder, mark)
        storage.write_json(note, {**facts, "noted": not whole, "done": False})
        print(f"== {step.name}: jaxpt-data {step.command} {' '.join(step.argv)}", flush=True)
        code = module(step.command).main(list(step.argv))
        if code:
            raise JaxptError(f"step {step.name} ended with exit code {code}")
        made.write_note(step.folder, mark)
        storage.write_json(note, {**facts, "noted": True, "done": True})


def _check_notes(workdir: str) -> None:
    """Refuses a workdir whose folder `steps` holds other files than a pipeline's notes, which would be written over."""
    folder = storage.join(workdir, "steps")
    names = [n for n in storage.list_all(folder) if not n.startswith(".") and not n.endswith(".tmp")]
    if "id" in (storage.read_json(storage.join(folder, "pipeline.json")) or ()):
        return
    for name in names:
        note = storage.read_json(storage.join(folder, name)) if name.endswith(".json") else None
        is_memo = (
            name == "files.json"
            and isinstance(note, dict)
            and all(isinstance(entry, dict) and "digest" in entry for entry in note.values())
        )
        if not is_memo and not (isinstance(note, dict) and {"key", "number", "argv"} <= note.keys()):
            raise JaxptError(f"{folder}/{name} is no note of a pipeline; take another --workdir, or move {folder} away")


def _identity(workdir: str) -> str:
    """Returns the pipeline's id, drawn at its first run; it stays when the workdir is moved."""
    file = storage.join(workdir, "steps", "pipeline.json")
    known = storage.read_json(file)
    if not isinstance(known, dict) or "id" not in known:
        known = {"id": uuid.uuid4().hex}
        storage.write_json(file, known)
    return known["id"]


def _check_ours(step: Planned, workdir: str, pipeline: str) -> None:
    """Refuses a step's folder that this pipeline did not make.

    A folder without a note is known by `steps/NAME.json`, if that does not say that there was one: so it is with those
    of earlier versions, and with a packed source that was killed before its note.
    """
    folder = Path(step.folder)
    if not folder.is_symlink() and (not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))):
        return
    note = made.read_note(folder) if folder.is_dir() and not folder.is_symlink() else None
    if note is not None:
        if (note.get("pipeline"), note.get("step")) == (pipeline, step.name):
            return
    elif not folder.is_symlink():
        before = storage.read_json(storage.join(workdir, "steps", f"{step.name}.json")) or {}
        if "key" in before and not before.get("noted"):
            return
    raise JaxptError(
        f"{step.folder} was not made by step {step.name} of this pipeline and would be removed; move it away, give the "
        f"step another name, or take another --workdir"
    )
