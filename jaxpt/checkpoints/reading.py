"""Reading a checkpoint's arrays and comparing them with the digests of its `run` item; whether they are finite."""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from jaxpt.bundles.digest import Scan, scan
from jaxpt.checkpoints import run_item
from jaxpt.checkpoints.run_item import DamagedError, RunItem
from jaxpt.checkpoints.verdict import WHOLE, ReadVerdict, agreed, judge
from jaxpt.errors import JaxptError
from jaxpt.models.params import Params, Tree
from jaxpt.models.specs import flatten, unflatten

Items = Mapping[str, Params]  # the trees of a checkpoint: "params", "opt_state" and perhaps "extra", "mean", "guard"
Shapes = Mapping[str, Tree[jax.ShapeDtypeStruct]]  # the same, of shapes, dtypes and shardings
MEAN, GUARD = "@mean", "@guard"  # in names of digests: no state of an optimizer can be called so


def read_checked(folder: Path, abstract: Shapes) -> tuple[Items | None, RunItem, Scan, ReadVerdict]:
    """Reads one checkpoint and compares it with its digests; returns state, run item, scan and all hosts' verdict."""
    state: Items | None = None
    run: RunItem = {}
    values, error = Scan({}, []), None
    try:
        run = run_item.read(folder)
        abstract = with_saved(abstract, run)
        _same_leaves(folder, run, abstract)
        state = _read_alike(folder, abstract)
    except Exception as e:  # whatever a reader makes of it: judged here
        error = e
    verdict = agreed(judge(error))
    if verdict.kind == WHOLE and state is not None:  # on all hosts, which scan together
        try:
            values = scan_state(state)
            compare(run["digests"], values.digests)
        except Exception as e:
            error = e
        verdict = agreed(judge(error))
    return state if verdict.kind == WHOLE else None, run, values, verdict


def _read_alike(folder: Path, abstract: Shapes) -> Items:
    """As `read_arrays`; what fails because an array was saved in another shape says so."""
    try:
        return read_arrays(folder, abstract)
    except Exception:
        odd = _other_shapes(folder, abstract)
        if not odd:
            raise
        raise JaxptError(
            f"it and this config's state differ in {odd[0]}{f' and {len(odd) - 1} more' if odd[1:] else ''}: take the "
            f"optimizer back that it was trained with, or start another run from it with --config.init_from={folder}"
        ) from None


def _other_shapes(folder: Path, abstract: Shapes) -> list[str]:
    """The arrays that were saved in another shape than `abstract` wants, as far as the checkpoint says."""
    odd = []
    for item, tree in abstract.items():
        try:
            have = flatten(ocp.PyTreeCheckpointHandler().metadata(folder / item).tree)
        except Exception:  # damage is found and judged by whoever reads the arrays
            continue
        for path, want in flatten(tree).items():
            if path in have and tuple(have[path].shape) != tuple(want.shape):
                odd.append(f"{item}/{path} (saved as {list(have[path].shape)}, wanted as {list(want.shape)})")
    return odd


def read_arrays(folder: Path, abstract: Shapes) -> Items:
    """Reads the items of a checkpoint that `abstract` names, without any barrier between hosts."""
    out: dict[str, Params] = {}
    for item, tree in abstract.items():
        args = ocp.args.PyTreeRestore(tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))
        out[item] = ocp.PyTreeCheckpointHandler().restore(folder / item, args=args) if tree else {}
    for path, leaf in flatten(out).items():
        if not isinstance(leaf, jax.Array):
            raise DamagedError(f"{path} is missing")
    return out


def scan_state(state: Items) -> Scan:
    """Returns a digest per (leaf, layer) of parameters, their mean and optimizer states, and which are not finite.

    Digests are the same on every mesh. Of the objective's extra things and of what guards remember there is one per
    leaf; scalars of the optimizer are as they are, an array of it that belongs to no parameter is `NAME/all`.
    """
    values = scan(state.get("params", {}))
    out, bad = dict(values.digests), [f"params/{name}" for name in values.not_finite]
    if state.get("mean"):
        values = scan(state["mean"])
        out |= {f"{MEAN}/{path}": v for path, v in values.digests.items()}
        bad += [f"mean/{where}" for where in values.not_finite]
    for name, tree in state.get("opt_state", {}).items():
        if isinstance(tree, Mapping) or tree.ndim:
            values = scan(tree if isinstance(tree, Mapping) else {"all": tree})
            out |= {f"{name}/{path}": v for path, v in values.digests.items()}
            bad += [f"opt_state/{name}/{where}" for where in values.not_finite]
        else:
            value = jax.device_get(tree).item()
            out[name] = [str(value)]
            bad += [] if math.isfinite(value) else [f"opt_state/{name}"]
    more = scan(_more_of(state))
    return Scan(out | more.digests, bad + more.not_finite)


def describe_extra(state: Items) -> RunItem:
    """Returns what a `run` item says of the items `extra` and `guard`: dtype and shape of each leaf by path."""
    out: RunItem = {}
    if extra := _described(state, "extra"):
        out["extra"] = extra
    if guard := _described(state, "guard"):
        out["guard"] = guard
    return out


def _described(state: Items, item: str) -> dict[str, list[object]]:
    return {path: [str(leaf.dtype), *leaf.shape] for path, leaf in flatten(state.get(item, {})).items()}


def with_extra(abstract: Shapes, run: RunItem) -> Shapes:
    """Returns `abstract` with the item `extra` that the checkpoint has, if it has one, whole on every device."""
    return _with_described(abstract, {"extra": run.get("extra")})


def with_saved(abstract: Shapes, run: RunItem) -> Shapes:
    """Returns `abstract` with all the items that the checkpoint has besides parameters and optimizer."""
    if has_mean(run):
        abstract = {**abstract, "mean": abstract["params"]}
    return _with_described(abstract, {"extra": run.get("extra"), "guard": run.get("guard")})


def has_mean(run: RunItem) -> bool:
    """Whether a checkpoint holds a mean of the parameters."""
    return any(path.startswith(f"{MEAN}/") for path in run["digests"])


def _with_described(abstract: Shapes, described: Mapping[str, Mapping[str, Any] | None]) -> Shapes:
    where = next(iter(flatten(abstract["params"]).values())).sharding
    whole = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where

    def tree(leaves: Mapping[str, Any]) -> Tree[jax.ShapeDtypeStruct]:
        shapes = {p: jax.ShapeDtypeStruct(tuple(s), dtype, sharding=whole) for p, (dtype, *s) in leaves.items()}
        return unflatten(shapes)

    return {**abstract, **{item: tree(leaves) for item, leaves in described.items() if leaves}}


def _more_of(state: Items) -> Items:
    """The extra things, and what guards remember, under the names that their digests have."""
    names = {"extra": "extra", "guard": GUARD}
    return {name: state[item] for item, name in names.items() if state.get(item)}


def compare(saved: Mapping[str, list[str]], now: Mapping[str, list[str]]) -> None:
    """Raises a DamagedError naming the first leaf and layer whose digest is not the saved one."""
    for path, values in saved.items():
        if path not in now:
            raise DamagedError(f"{path} is missing")
        for layer, (a, b) in enumerate(itertools.zip_longest(values, now[path])):
            if a != b:
                raise DamagedError(f"the values of {path}, layer {layer}, are not those that were saved")


def not_finite(values: Scan) -> str:
    """Says which values are not finite, as the middle of a line."""
    first, more = values.not_finite[0], len(values.not_finite) - 1
    return f"its state holds NaN or infinite values ({first}{f' and {more} more' if more else ''})"


def _same_leaves(folder: Path, run: RunItem, abstract: Shapes) -> None:
    want, have = set(_leaf_names(abstract)), set(run["digests"])
    if want != have:
        odd = sorted(want ^ have)
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise JaxptError(
            f"it and this config's state differ in {', '.join(odd[:3])}{more}: take the optimizer back that it was "
            f"trained with, or start another run from it with --config.init_from={folder}"
        )


def _leaf_names(abstract: Shapes) -> Iterator[str]:
    yield from flatten(abstract["params"])
    for name, tree in abstract.get("opt_state", {}).items():
        tree = {"all": tree} if not isinstance(tree, Mapping) and tree.ndim else tree
        yield from (f"{name}/{path}" for path in flatten(tree)) if isinstance(tree, Mapping) else (name,)
    for item, name in (("extra", "extra"), ("mean", MEAN), ("guard", GUARD)):
        yield from (f"{name}/{path}" for path in flatten(abstract.get(item, {})))
