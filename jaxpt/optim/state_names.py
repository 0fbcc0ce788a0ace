"""Names of optimizer states: from the fields of optax's named tuples, wherever in a chain they are.

optax nests states as its transformations are nested: tuples of named tuples of trees. Here every array of a state is
called by the field that holds it (`mu`, `count`), so that a checkpoint does not depend on the order of a chain. What
holds nothing (`EmptyState`) has no name. Where two states have one name, they are one state if they belong to different
parameters (a chain for matrices, another for gains); else each is called by its label or class as well
(`ScaleByAdamState_count`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
from jax.tree_util import DictKey, GetAttrKey, KeyPath, PyTreeDef, SequenceKey, keystr, tree_flatten_with_path

from jaxpt.errors import JaxptError


@dataclass(frozen=True)
class Slot:
    """Where an array of a parameter's state belongs: the state's name, and whether the parameter has its own."""

    name: str
    own: bool


@dataclass(frozen=True)
class _Place:
    """An array as optax holds it: `identity` is the same for the same array of several parameters' states."""

    identity: str
    short: str
    long: str
    own: bool


def name_states(states: Mapping[str, PyTreeDef], where: str) -> dict[str, list[Slot]]:
    """Returns the slots of every parameter's state, in the order of `jax.tree.leaves`.

    Args:
        states: by parameter path, the structure of the optax state for a tree that holds this parameter alone.
        where: the optimizer, for messages.

    Raises:
        JaxptError: an array that is the field of no named tuple, or two that have the same name even so.
    """
    places = {path: _places(structure, path, where) for path, structure in states.items()}
    clashing = _clashes({path: [(p, p.short) for p in held] for path, held in places.items()})
    names = {path: [(p, p.long if p.short in clashing else p.short) for p in at] for path, at in places.items()}
    for name in sorted(_clashes(names)):
        raise JaxptError(f"{where} has two states that are called {name}; call the fields of their named tuples apart")
    return {path: [Slot(name, p.own) for p, name in held] for path, held in names.items()}


def _clashes(names: Mapping[str, Sequence[tuple[_Place, str]]]) -> set[str]:
    """The names that two different states of one parameter have, or two states that are not parameters' own."""
    out: set[str] = set()
    shared: dict[str, str] = {}
    for slots in names.values():
        here: dict[str, str] = {}
        for place, name in slots:
            if here.setdefault(name, place.identity) != place.identity:
                out.add(name)
            if not place.own and shared.setdefault(name, place.identity) != place.identity:
                out.add(name)
    own = {name for slots in names.values() for place, name in slots if place.own}
    return out | (own & shared.keys())


def _places(structure: PyTreeDef, path: str, where: str) -> list[_Place]:
    state = jax.tree.unflatten(structure, range(structure.num_leaves))
    return [_place(state, keys, tuple(path.split("/")), where) for keys, _ in tree_flatten_with_path(state)[0]]


def _place(state: object, keys: KeyPath, words: tuple[str, ...], where: str) -> _Place:
    texts = [key.key if isinstance(key, DictKey) else None for key in keys]
    starts = [i for i in range(len(keys)) if tuple(texts[i : i + len(words)]) == words]
    before, after = (keys[: starts[-1]], keys[starts[-1] + len(words) :]) if starts else (keys, ())
    named = [i for i, key in enumerate(before) if isinstance(key, (GetAttrKey, DictKey))]
    if not named:
        raise JaxptError(
            f"{where}: its state holds an array at {keystr(keys)} that has no name; hold it in a field of a NamedTuple"
        )
    at = named[-1]
    field = "_".join([_word(before[at]), *map(_word, before[at + 1 :]), *map(_word, after)])
    owner = state
    for key in before[:at]:
        owner = _child(owner, key)
    labels = [_word(key) for key in before[:at] if isinstance(key, DictKey)]
    kind = type(owner).__name__
    identity = f"{keystr(before)}{keystr(after)} of {kind}"
    return _Place(identity, field, "_".join([*(labels or [kind]), field]), bool(starts))


def _word(key: object) -> str:
    if isinstance(key, GetAttrKey):
        return key.name
    return str(key.key) if isinstance(key, DictKey) else str(getattr(key, "idx", getattr(key, "key", key)))


def _child(node: object, key: object) -> object:
    if isinstance(key, GetAttrKey):
        return getattr(node, key.name)
    if isinstance(key, DictKey):
        return node[key.key]  # type: ignore[index]
    return node[key.idx] if isinstance(key, SequenceKey) else node  # type: ignore[index]
