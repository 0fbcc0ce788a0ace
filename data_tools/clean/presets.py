"""Presets: which rules and edits run, in which order, with which thresholds. A preset is a file, never code.

A preset is a JSON object: `steps` maps the names of rules and edits, in the order in which they run, to their options.
`least` and `most` bound what a rule measures; `"base"` names a preset whose steps are taken over and changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.clean.edits import EDITS
from data_tools.clean.measures import MEASURES
from data_tools.clean.words import SEGMENTERS
from data_tools.io.batch import Rule
from jaxpt.errors import JaxptError, nearest

FOLDER = Path(__file__).with_name("presets")
WRITE = ("unwrapped", "as_is")  # of the edit `unwrap`
KEYS = ("about", "base", "from", "segmenter", "characters_per_word", "steps")
_MEASURED = {rule.name: rule for edit in EDITS.values() for rule in edit.measures}
_BY_EDIT = {rule.name: name for name, edit in EDITS.items() for rule in edit.measures}


@dataclass(frozen=True)
class Preset:
    """What `clean` does, with every value settled."""

    name: str
    steps: Mapping[str, Mapping[str, Any]]  # in order; only those that are on
    segmenter: str = "spaces"
    characters_per_word: float = 1.0  # of unspaced scripts, where every character is split off

    def rules(self) -> list[Rule]:
        """Returns the rules in order, with bounds and the ranges of their histograms."""
        out = []
        for name, options in self.steps.items():
            if name in EDITS:
                continue
            shape = MEASURES.get(name) or _MEASURED[name]
            out.append(Rule(name, options["least"], options["most"], shape.low, shape.high, shape.log))
        return out

    def settings(self) -> dict[str, Any]:
        """Returns everything that decides the output."""
        return {
            "segmenter": self.segmenter,
            "characters_per_word": self.characters_per_word,
            "steps": [[name, dict(options)] for name, options in self.steps.items()],
        }


def names() -> list[str]:
    """Returns the names of the shipped presets."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.json" if name in names() else Path(name)
    if not path.is_file():
        raise JaxptError(
            f"--preset={name} is neither a preset{nearest(name, names())} nor a file; presets: {', '.join(names())}"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise JaxptError(f"{path}: not JSON ({error}); see docs/clean.md for what a preset looks like") from error
    if not isinstance(values, dict):
        raise JaxptError(f"{path}: a preset is a JSON object with {', '.join(KEYS)}")
    for key in values:
        if key not in KEYS:
            raise JaxptError(f"{path}: unknown key {key!r}{nearest(key, KEYS)}; keys are {', '.join(KEYS)}")
    return values


def _merged(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns a preset with what it takes over from its bases."""
    if name in seen:
        raise JaxptError(f"--preset={name}: bases form a cycle: {' -> '.join((*seen, name))}")
    mine = _read(name)
    if "base" not in mine:
        return mine
    out = _merged(mine["base"], (*seen, name))
    steps = dict(out.get("steps", {}))
    for step, options in mine.get("steps", {}).items():
        steps[step] = {**steps.get(step, {}), **(options or {})} if options is not None else {"on": False}
    return {**out, **mine, "steps": steps}


def _known(step: str) -> dict[str, Any]:
    """Returns the options of a rule or an edit with their defaults."""
    if step in EDITS:
        return {"on": True, **EDITS[step].options}
    extra = dict(MEASURES[step].options) if step in MEASURES else {}
    return {"on": True, "least": None, "most": None, **extra}


def _check_value(place: str, key: str, value: Any, default: Any) -> Any:
    """Returns `value` in the default's form.

    Raises:
        JaxptError: it is of another kind.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key in ("least", "most") and default is None:
        good, wanted = value is None or number, "a number or null"
    elif isinstance(default, bool):
        good, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, (int, float)):
        good, wanted = number, "a number"
    elif isinstance(default, str):
        good, wanted = isinstance(value, str), "a text"
    else:
        good, wanted = isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value), "a list of texts"
    if not good:
        raise JaxptError(f"{place}.{key}={json.dumps(value, ensure_ascii=False)}: must be {wanted}")
    return tuple(value) if isinstance(value, list) else value


def _steps(name: str, steps: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    every = [*MEASURES, *_MEASURED, *EDITS]
    out = {}
    for step, given in steps.items():
        if step not in every:
            raise JaxptError(f"preset {name}: there is no rule or edit {step!r}{nearest(step, every)}; see --list")
        options = _known(step)
        for key, value in (given or {}).items():
            if key not in options:
                raise JaxptError(f"preset {name}: {step} has no option {key!r}{nearest(key, options)}; "
                                 f"options are {', '.join(options)}")  # fmt: skip
            options[key] = _check_value(step, key, value, _known(step)[key])
        if options["on"]:
            out[step] = {k: v for k, v in options.items() if k != "on"}
    for i, step in enumerate(out):
        edit = _BY_EDIT.get(step)
        if edit and edit not in list(out)[:i]:
            raise JaxptError(f"preset {name}: {step} is measured by the edit {edit}, which must come before it")
    return out


def _apply(data: dict[str, Any], changes: Sequence[str]) -> None:
    """Changes a preset by `RULE.OPTION=VALUE`; a rule that it has not comes at its end, `unwrap` in front."""
    every = [*MEASURES, *_MEASURED, *EDITS]
    for change in changes:
        path, separator, text = change.partition("=")
        step, dot, key = path.strip().partition(".")
        if not separator or not (dot or path in ("segmenter", "characters_per_word")):
            raise JaxptError(f"--set={change}: write RULE.OPTION=VALUE, e.g. words.least=30 or bullet_lines.on=false")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if not dot:
            data[step] = value
            continue
        if step not in every:
            raise JaxptError(f"--set={change}: there is no rule or edit {step!r}{nearest(step, every)}; see --list")
        if key not in _known(step):
            options = _known(step)
            raise JaxptError(
                f"--set={change}: {step} has no option {key!r}{nearest(key, options)}; options are {', '.join(options)}"
            )
        if step not in data["steps"] and step in EDITS and EDITS[step].first:
            data["steps"] = {step: {}, **data["steps"]}
        data["steps"][step] = {**(data["steps"].get(step) or {}), key: value}


def load(name: str, changes: Sequence[str] = ()) -> Preset:
    """Returns a preset by name or from a file, with changes applied.

    Args:
        name: of a shipped preset, or the path of a JSON file.
        changes: `RULE.OPTION=VALUE`, the value in JSON (a bare word is a text).

    Raises:
        JaxptError: a name, a key or a value that there is not, with the nearest one.
    """
    data = _merged(name)
    data = {**data, "steps": {k: dict(v) for k, v in data.get("steps", {}).items()}}
    _apply(data, changes)
    segmenter, stretch = data.get("segmenter", "spaces"), data.get("characters_per_word", 1.0)
    if segmenter not in SEGMENTERS:
        raise JaxptError(
            f"preset {name}: segmenter={segmenter!r}{nearest(segmenter, SEGMENTERS)}; one of {', '.join(SEGMENTERS)}"
        )
    if isinstance(stretch, bool) or not isinstance(stretch, (int, float)) or not 1 <= stretch <= 10:
        raise JaxptError(f"preset {name}: characters_per_word={stretch!r} must be a number from 1 to 10")
    stretch = float(stretch) if segmenter == "characters" else 1.0
    steps = _steps(name, data["steps"])
    write = steps.get("unwrap", {}).get("write", WRITE[0])
    if write not in WRITE:
        raise JaxptError(f"preset {name}: unwrap.write={write!r}{nearest(write, WRITE)}; one of {', '.join(WRITE)}")
    return Preset(name, steps, segmenter, stretch)
