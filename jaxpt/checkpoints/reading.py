"""Reading a checkpoint's arrays and comparing them with the digests of its `run` item; whether they are finite."""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

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

Items = Mapping[str, Params]  # the trees of a checkpoint: "params", "opt_state" and perhaps "extra"
Shapes = Mapping[str, Tree[jax.ShapeDtypeStruct]]  # the same, of shapes, dtypes and shardings


def read_checked(folder: Path, abstract: Shapes) -> tuple[Items | None, RunItem, Scan, ReadVerdict]:
    """Reads one checkpoint and compares it with its digests; returns state, run item, scan and all hosts' verdict."""
    state: Items | None = None
    run: RunItem = {}
    values, error = Scan({}, []), None
    try:
        run = run_item.read(folder)
        abstract = with_extra(abstract, run)
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
    """Returns a digest per (leaf, layer) of parameters and optimizer states, and per leaf of the objective's extra
    things, the same on every mesh, scalars of the optimizer as they are; and which of them are not finite. An array
    of the optimizer that belongs to no parameter is `NAME/all`."""
    values = scan(state["params"]) if "params" in state else Scan({}, [])
    out, bad = dict(values.digests), [f"params/{name}" for name in values.not_finite]
    for name, tree in state.get("opt_state", {}).items():
        if isinstance(tree, Mapping) or tree.ndim:
            values = scan(tree if isinstance(tree, Mapping) else {"all": tree})
            out |= {f"{name}/{path}": v for path, v in values.digests.items()}
            bad += [f"opt_state/{name}/{where}" for where in values.not_finite]
        else:
            value = jax.device_get(tree).item()
            out[name] = [str(value)]
            bad += [] if math.isfinite(value) else [f"opt_state/{name}"]
    extra = scan(_extra_of(state))
    return Scan(out | extra.digests, bad + extra.not_finite)


def describe_extra(state: Items) -> RunItem:
    """Returns what a `run` item says of the item `extra`, {} without one: dtype and shape of each leaf by path."""
    leaves = flatten(state.get("extra", {}))
    return {"extra": {path: [str(leaf.dtype), *leaf.shape] for path, leaf in leaves.items()}} if leaves else {}


def with_extra(abstract: Shapes, run: RunItem) -> Shapes:
    """Returns `abstract` with the item `extra` that the checkpoint has, if it has one, whole on every device."""
    if not run.get("extra"):
        return abstract
    where = next(iter(flatten(abstract["params"]).values())).sharding
    whole = NamedSharding(where.mesh, PartitionSpec()) if isinstance(where, NamedSharding) else where
    leaves = {
        p: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=whole) for p, (dtype, *shape) in run["extra"].items()
    }
    return {**abstract, "extra": unflatten(leaves)}


def _extra_of(state: Items) -> Items:
    """The extra things under the names that their digests have."""
    return {"extra": state["extra"]} if state.get("extra") else {}


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
    yield from (f"extra/{path}" for path in flatten(abstract.get("extra", {})))
