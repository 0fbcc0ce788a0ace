"""An optimizer's moments beside a bundle's parameters: `optimizer.json`, and an array per state and parameter.

`optimizer.json` holds `format`, `optimizer` (its options, `name` among them), `step` (of the run they come from),
`shared` (`{name: [dtype, value]}`: counts), `reset` (names of states, or `STATE/PARAMETER`, that start new) and
`digests` (`{state: {parameter: [a digest per layer]}}`). The arrays are `optimizer/STATE/PARAMETER`, chunked as the
parameter is. A state that starts new as a whole has no arrays.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxpt.bundles import store
from jaxpt.bundles.digest import digest
from jaxpt.errors import JaxptError
from jaxpt.files import digests as small_files
from jaxpt.models.params import Array, Params
from jaxpt.models.specs import ParamSpec, flatten, unflatten

NAME = "optimizer.json"
FORMAT = 1
WAY_OUT = "reshape the run again with --moments, or start with stages[0].load=params"


@dataclass(frozen=True)
class Moments:
    """What is carried along: the optimizer's options, its states by name without those that start new, `reset`."""

    optimizer: Mapping[str, object]
    step: int
    states: Mapping[str, Params | Array]
    reset: tuple[str, ...]


def write_moments(folder: Path, moments: Moments, specs: Mapping[str, ParamSpec]) -> list[str]:
    """Writes moments into the folder of a bundle that is being written; returns the names of their small files.

    Args:
        folder: of the bundle.
        moments: on the host; trees by parameter path, arrays of their parameter's shape.
        specs: the model's axis table, flat.
    """
    shared: dict[str, object] = {}
    digests: dict[str, dict[str, list[str]]] = {}
    files = [NAME]
    for state, tree in moments.states.items():
        if not isinstance(tree, Mapping):
            value = np.asarray(tree)
            shared[state] = [str(value.dtype), value.tolist()]
            continue
        for path, leaf in flatten(tree).items():
            value = np.asarray(leaf)
            store.create(folder / "optimizer" / state / path, specs[path], str(value.dtype)).write(value).result()
            digests.setdefault(state, {})[path] = digest(unflatten({path: value}))[path]
            files.append(f"optimizer/{state}/{path}/zarr.json")
    facts = {
        "format": FORMAT,
        "optimizer": moments.optimizer,
        "step": moments.step,
        "shared": shared,
        "reset": list(moments.reset),
        "digests": digests,
    }
    (folder / NAME).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return files


def moments_facts(bundle: Path) -> dict[str, Any] | None:
    """Returns what `optimizer.json` of a bundle says; None where it has no moments.

    Raises:
        JaxptError: it is damaged, or of a later format.
    """
    if not (bundle / NAME).exists():
        return None
    facts: dict[str, Any] = small_files.read_json(bundle, NAME, dict, WAY_OUT)
    if facts.get("format") != FORMAT:
        raise JaxptError(f"{bundle / NAME}: format {facts.get('format')} is not read by this jaxpt; {WAY_OUT}")
    return facts


def read_tree(bundle: Path, facts: Mapping[str, Any], state: str, like: Params) -> Params:
    """Returns a state that is a tree, each array laid out as in `like`, of which each device reads its part.

    Raises:
        JaxptError: another set of parameters or shapes than `like`; damage.
    """
    want, written = flatten(like), facts["digests"][state]
    odd = sorted(want.keys() ^ written.keys())
    if odd:
        raise JaxptError(f"{bundle / NAME}: {state} and this config's optimizer differ in {odd[0]}; {WAY_OUT}")
    return unflatten({path: _read(bundle, f"{state}/{path}", leaf, written[path]) for path, leaf in want.items()})


def _read(bundle: Path, name: str, like: Array, written: list[str]) -> Array:
    assert isinstance(like, jax.Array), name  # it says where the state lies
    folder = bundle / "optimizer" / name
    small_files.read_file(bundle, f"optimizer/{name}/zarr.json", WAY_OUT)
    try:
        array = store.open_array(folder)
        if tuple(array.shape) != tuple(like.shape) or array.dtype.name != str(like.dtype):
            raise ValueError(f"it holds {array.dtype.name} {array.shape}, not {like.dtype} {like.shape}")
        part = functools.partial(store.read, array)
        value = jax.make_array_from_callback(like.shape, like.sharding, part)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise JaxptError(f"{folder} is damaged or incomplete ({reason}); {WAY_OUT}") from error
    path = name.partition("/")[2]
    if digest(unflatten({path: value}))[path] != written:
        raise JaxptError(f"{folder}: its values are not what was written; {WAY_OUT}")
    return value
