"""Decide everything about a pipeline before anything runs: folders, steps as objects, keys.

The key of a step is a hash of its command, its options, the content of the files that these name, and the keys of the
steps it reads from.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_tools.io import storage
from data_tools.io.outputs import check_outputs
from data_tools.io.readers import SUFFIXES
from data_tools.pipelines import flags, folders
from data_tools.pipelines.pipeline import Pipeline, PipelineStep
from data_tools.pipelines.step import DataStep
from jaxpt.config import schema
from jaxpt.config.choice import find
from jaxpt.config.hints import Value
from jaxpt.data.fingerprints import content_fingerprint
from jaxpt.data.text_files import list_files
from jaxpt.errors import JaxptError, nearest
from jaxpt.files.names import path_component


@dataclass(frozen=True)
class PlannedStep:
    """A step with everything decided: its folder, the data step that does it, its command line, its key."""

    name: str
    command: str
    folder: str
    step: DataStep
    argv: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class _Checked:
    """A step after its checks: where its inputs come from, and the options that were stated for it."""

    stated: PipelineStep
    name: str
    inputs: tuple[str, ...]
    folder: str
    step: DataStep
    argv: tuple[str, ...]
    options: Mapping[str, Value]  # those of the config and those that the pipeline gives, as they are written


def plan(pipeline: Pipeline, workdir: str, log: Callable[[str], None] = print) -> list[PlannedStep]:
    """Checks every step against its command's options and returns them in order, before anything runs.

    Args:
        pipeline: its config.
        workdir: the folder of all steps.
        log: is given a line for each step that is left out.

    Raises:
        JaxptError: an unknown command, option or input, or a value that the command refuses; nothing is written then.
    """
    if not pipeline.steps:
        raise JaxptError("config.steps is empty; name at least one command of jaxpt-data")
    folders.check_notes(workdir)
    checked: dict[str, _Checked] = {}
    for i, stated in enumerate(pipeline.steps):
        if _is_left_out(stated, f"config.steps[{i}]", pipeline, log):
            continue
        one = _check(stated, f"config.steps[{i}]", pipeline, workdir, checked)
        checked[one.name] = one
    keys: dict[str, str] = {}
    for name, one in checked.items():
        keys[name] = _key(one, keys, workdir)
    return [
        PlannedStep(name, one.stated.command, one.folder, one.step, one.argv, keys[name])
        for name, one in checked.items()
    ]


def _is_left_out(stated: PipelineStep, where: str, pipeline: Pipeline, log: Callable[[str], None]) -> bool:
    """Whether the key that a step is only with is not set."""
    if not stated.only_with:
        return False
    known = list(_shared(pipeline))
    if stated.only_with not in known:
        hint = nearest(stated.only_with, known) or f"; there are {', '.join(known)}"
        raise JaxptError(f"{where}.only_with={stated.only_with} is no key of a pipeline{hint}")
    if getattr(pipeline, stated.only_with) not in (None, ""):
        return False
    name = stated.name or stated.command
    log(f"step {name} is left out: config.{stated.only_with} is not set; give --config.{stated.only_with}=…")
    return True


def _check(
    stated: PipelineStep, where: str, pipeline: Pipeline, workdir: str, before: Mapping[str, _Checked]
) -> _Checked:
    """Returns one step, its name, inputs, output and options checked; `before` are the steps in front of it."""
    cls = find(DataStep, stated.command, f"{where}.command")
    name = stated.name or stated.command.rpartition(":")[2]
    path_component(name, f"{where}.name", (*before, "steps", "report", "files", "pipeline"))
    inputs = stated.inputs or tuple(list(before)[-1:]) or (pipeline.input,)
    for other in inputs:
        if other not in before and not _is_path(other):
            hint = nearest(other, before)
            raise JaxptError(f"{where}.inputs: there is no step {other!r} before this one{hint}, nor is it a path")
    folder = storage.join(workdir, name)
    check_outputs({f"{where}.inputs": ",".join(n for n in inputs if n not in before)}, {f"{where}: folder": folder})
    known = {field.name for field in dataclasses.fields(cls)}
    if own := next((key for key in ("input", "output") if key in stated.options), None):
        raise JaxptError(f"{where}.options.{own} is decided by the pipeline; see {where}.inputs and {where}.name")
    shared = {k: v for k, v in _shared(pipeline).items() if k in known and v is not None}
    options = {**shared, **{k: _placed(v, before) for k, v in stated.options.items()}}
    paths = ",".join(before[n].folder if n in before else n for n in inputs)
    step = _build(cls, {"input": paths, "output": folder, **options}, where, stated.command)
    resuming = step.in_pipeline()
    added = [f.name for f in dataclasses.fields(step) if getattr(resuming, f.name) != getattr(step, f.name)]
    argv = flags.arguments(resuming, dict.fromkeys(("input", "output", *shared, *added, *options)))
    return _Checked(stated, name, inputs, folder, resuming, tuple(argv), options)


def _is_path(name: str) -> bool:
    return "/" in name or "*" in name or "." in name


def _shared(pipeline: Pipeline) -> dict[str, Value]:
    """What the pipeline gives to every step that has such an option."""
    own = ("input", "steps")
    return {f.name: getattr(pipeline, f.name) for f in dataclasses.fields(pipeline) if f.name not in own}


def _placed(value: Value, before: Mapping[str, _Checked]) -> Value:
    """Returns an option with the folders of earlier steps put in for `{NAME}`."""
    if isinstance(value, str):
        for name, one in before.items():
            value = value.replace("{" + name + "}", one.folder)
        return value
    if isinstance(value, Mapping):
        return {k: _placed(v, before) for k, v in value.items()}
    return [_placed(v, before) for v in value] if isinstance(value, list | tuple) else value


def _build(cls: type[DataStep], values: Mapping[str, Value], where: str, command: str) -> DataStep:
    """Returns the data step with these options; one that is required and is not there is named as a flag."""
    schema.check_stated(cls, values, f"{where}.options")
    values = cls.of_today(values)
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            shared = field.name in {f.name for f in dataclasses.fields(Pipeline)}
            key = f"config.{field.name}" if shared else f"{where}.options.{field.name}"
            raise JaxptError(f"{where} ({command}) needs {field.name}; give --{key}=…")
    return schema.build(cls, values, f"{where}.options")


def _key(one: _Checked, keys: Mapping[str, str], workdir: str) -> str:
    """Returns the key (hex) of a step; `keys` holds those of the steps before it."""
    memo = Path(workdir) / "steps" / "files.json"
    idle = {f.name for f in dataclasses.fields(one.step) if not f.metadata.get("changes_output", True)}
    facts = {k: _as_floats(v) for k, v in one.options.items() if k not in idle}
    before = [keys[n] if n in keys else content_fingerprint(_files(n), memo) for n in one.inputs]
    before += [key for name, key in keys.items() if "{" + name + "}" in str(one.stated.options)]
    named = _named_files(facts.values(), workdir)
    content = content_fingerprint(named, memo) if named else ""
    text = json.dumps([one.stated.command, facts, content, before], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_floats(value: Value) -> Value:
    """Returns an option as it enters a key: whole numbers as floats, also in a dict (configs always held them so)."""
    if isinstance(value, Mapping):
        return {k: _as_floats(v) for k, v in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _files(pattern: str) -> list[str]:
    return sorted({path for part in pattern.split(",") for path in list_files(part.strip(), SUFFIXES)})


def _named_files(values: Iterable[Value], workdir: str) -> list[str]:
    """Returns the files outside the workdir that options name: a change of their content is a change of the step."""
    out: list[str] = []
    for value in values:
        for part in value.split(",") if isinstance(value, str) and "/" in value else ():
            path = Path(part)
            if path.is_relative_to(workdir):
                continue  # what another step wrote: its key counts
            if path.is_dir():
                out += [str(f) for f in sorted(path.rglob("*")) if f.is_file()]
            elif path.is_file():
                out.append(str(path))
            elif "*" in part:
                out += _files(part)
    return out
