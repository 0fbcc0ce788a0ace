"""Merging models of one shape: their weighted mean, and the weights that stand for a decay of the learning rate.

A checkpoint is its predecessor plus what was trained in between, so Σ c_j θ_j = θ_0 + Σ_i w_i (θ_i - θ_{i-1}) with
w_i = Σ_{j≥i} c_j: averaging the checkpoints of a constant rate is as if that rate had been multiplied by w_i in each
interval (WSM: Warmup-Stable and Merge, arXiv 2507.17634). A decay w_1 ≥ w_2 ≥ … thus gives the weights
c_k = w_k, c_j = w_j - w_{j+1}, c_0 = 1 - w_1.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.bundles import open_bundle
from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.checkpoints.newest import read_once
from jaxpt.checkpoints.run_files import has_tokenizer, read_lineage
from jaxpt.checkpoints.slices import CheckpointSlices
from jaxpt.data.ledger import Ledger
from jaxpt.errors import JaxptError
from jaxpt.files.absent import absent_model
from jaxpt.files.digests import canonical_digest
from jaxpt.models.config import ModelConfig
from jaxpt.optim.curve import SHAPES
from jaxpt.reshape.stream import ModelSlices
from jaxpt.training.starting_point import ledger_of

Entry = Mapping[str, Any]  # of a lineage


def check_weights(weights: Sequence[float], count: int) -> list[float]:
    """Returns weights divided by their sum.

    Raises:
        JaxptError: another number than there are models, one that is below 0 or not finite, all of them 0.
    """
    if len(weights) != count:
        raise JaxptError(f"--weights has {len(weights)} numbers, there are {count} models; give one for each")
    total = math.fsum(weights)
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not total > 0:
        raise JaxptError(f"--weights={','.join(f'{w:g}' for w in weights)}: each must be at least 0, and one above 0")
    return [w / total for w in weights]


def decay_weights(shape: str, end: float, steps: Sequence[int]) -> list[float]:
    """Returns the weights of checkpoints at `steps` whose mean stands for a decay over them.

    The decay begins at the first checkpoint and would reach `end` one mean interval after the last; w_i is its value at
    the end of interval i. Equally spaced checkpoints and "linear" to 0 give the plain mean.

    Args:
        shape: linear, cosine, sqrt or exponential.
        end: multiple of the constant rate at the decay's end.
        steps: of the checkpoints, ascending.

    Raises:
        JaxptError: an unknown shape, an end outside [0, 1], an exponential to 0, fewer than two steps, or steps that
            do not rise.
    """
    if shape not in (*SHAPES, "exponential"):
        raise JaxptError(f"--decay={shape} is not a shape; known: {', '.join([*SHAPES, 'exponential'])}")
    if not 0 <= end <= 1 or (shape == "exponential" and end == 0):
        raise JaxptError(f"--end={end:g} must be at least 0 and at most 1, above 0 for an exponential")
    if len(steps) < 2 or any(b <= a for a, b in itertools.pairwise(steps)):
        listed = ", ".join(map(str, steps))
        raise JaxptError(f"--decay needs checkpoints of rising steps, at least two; these are {listed}")
    span = (steps[-1] - steps[0]) * len(steps) / (len(steps) - 1)
    places = [(step - steps[0]) / span for step in steps[1:]]
    w = [end**u if shape == "exponential" else end + (1 - end) * SHAPES[shape](u) for u in places]
    return [1 - w[0], *(a - b for a, b in itertools.pairwise(w)), w[-1]]


class Merged:
    """The weighted mean of models as a model, computed slice by slice as it is read, summed in float32.

    An entry differs from the exact mean by at most (k + 1) · 2^-23 · Σ |c_j θ_j| for k models, before it is cast to
    `dtype`. Of the slice at hand the result, one input and a product are in memory.
    """

    def __init__(self, models: Sequence[ModelSlices], weights: Sequence[float], names: Sequence[str], dtype: str):
        """Wraps models of one config.

        Args:
            models: what is averaged.
            weights: of each, which sum to 1.
            names: of each, for messages.
            dtype: of the result.

        Raises:
            JaxptError: two models of different shapes.
        """
        for name, model in zip(names[1:], models[1:]):
            same_shape(names[0], models[0].config, name, model.config)
        self._models, self._weights, self._dtype = list(models), list(weights), dtype
        self.config = models[0].config

    def read(self, path: str, layer: int | None = None) -> np.ndarray:
        """Returns a slice, see `ModelSlices`."""
        total: np.ndarray | None = None
        for model, weight in zip(self._models, self._weights):
            part = np.multiply(np.asarray(model.read(path, layer)), np.float32(weight), dtype=np.float32)
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        return total.astype(self._dtype, copy=False)


def same_shape(first: str, a: ModelConfig, name: str, b: ModelConfig) -> None:
    """Raises a JaxptError that names what differs between two models that are to be averaged."""
    if a == b:
        return
    mine, other = a.to_dict(), b.to_dict()
    key = next((k for k in mine if mine[k] != other.get(k)), "config")
    raise JaxptError(
        f"{name} and {first} are not models of one shape: {key} is {other.get(key)!r} and {mine.get(key)!r}"
    )


@dataclass(frozen=True)
class Ingredient:
    """A model to be merged: where it is, its parameters by slices, its step (None: unknown), where it comes from."""

    name: str
    slices: ModelSlices
    step: int | None
    tokenizer: Path | None
    lineage: Sequence[Entry]
    digest: str


def open_ingredient(path: str) -> Ingredient:
    """Opens a bundle, a run (its newest checkpoint), `RUN@STEP` or `RUN/checkpoints/STEP`, without reading parameters.

    Raises:
        JaxptError: nothing there that can be merged.
    """
    here, step = Path(path), None
    if not here.exists() and "@" in path:
        run, _, number = path.rpartition("@")
        here = Path(run) / "checkpoints" / number
    if here.parent.name == "checkpoints" and here.name.isdigit():
        here, step = here.parents[1], int(here.name)
    if (here / "checkpoints").is_dir():
        return _of_run(path, here, step)
    if (here / "model.json").is_file():
        bundle = open_bundle(here)
        tokenizer = here / "tokenizer" if (here / "tokenizer").is_dir() else None
        steps = bundle.lineage[-1].get("steps") if bundle.lineage else None
        return Ingredient(path, bundle, steps, tokenizer, bundle.lineage, canonical_digest(bundle.digests))
    if here.exists():
        raise JaxptError(f"--from: {path} is no bundle, run or RUN@STEP; a Hugging Face directory is imported first")
    raise JaxptError(f"--from: {path} {absent_model(here)}")


def _of_run(name: str, run: Path, step: int | None) -> Ingredient:
    steps = finished_steps(run)
    if not steps or (step is not None and step not in steps):
        have = ", ".join(map(str, steps)) or "none"
        raise JaxptError(f"--from: {run} has no checkpoint {'' if step is None else step}; it has {have}")
    number = steps[-1] if step is None else step
    facts = read_once(run, number, lambda n: read_run(run, n), named=True)
    entry = {"op": "train", "options": {"run": str(run)}, "steps": number, "tokens": facts["tokens"]}
    entry |= {"flops": facts["flops"]} if "flops" in facts else {}
    entry["ledger"] = facts.get("ledger", [])
    tokenizer = run / "tokenizer" if has_tokenizer(run) else None
    slices, digest = CheckpointSlices(run, number, facts), canonical_digest(facts["digests"])
    return Ingredient(name, slices, number, tokenizer, [*read_lineage(run), entry], digest)


@dataclass(frozen=True)
class SeenRows:
    """Rows of a source that merged models were trained on: those of any, and those of more than one, counted once."""

    name: str
    rows: int
    shared: int


def seen_rows(ledgers: Sequence[Ledger]) -> list[SeenRows]:
    """Returns what several models have seen, a line per source."""
    union, shared = Ledger(), Ledger()
    for ledger in ledgers:
        shared = shared.union(union.common(ledger))
        union = union.union(ledger)
    names = {entry.fingerprint: entry.name for entry in union.entries}
    return [SeenRows(name, union.rows(mark), shared.rows(mark)) for mark, name in names.items()]


def merged_lineage(of: Sequence[Ingredient], weights: Sequence[float], how: Mapping[str, object]) -> list[Entry]:
    """Returns the union of lineages: what all have in common, then an entry that has the rest of each, and its weight.

    The entry's ledger is the union of all, so that a run from the merged model takes none of their rows again.
    """
    lineages = [list(one.lineage) for one in of]
    first = lineages[0]
    same = next((i for i in range(len(first)) if any(l[i : i + 1] != [first[i]] for l in lineages)), len(first))
    parts = [
        {"path": one.name, "weight": weight, "digest": one.digest, "lineage": [_without(e) for e in lineage[same:]]}
        for one, weight, lineage in zip(of, weights, lineages)
    ]
    ledgers = [ledger_of(one.lineage) for one in of]
    ledger = Ledger(entry for one in ledgers for entry in one.entries)
    rows = {seen.name: {"rows": seen.rows, "seen by several": seen.shared} for seen in seen_rows(ledgers)}
    tokens = max((part.get("tokens") or 0 for l in lineages for part in l[same:]), default=0)
    entry = {"op": "merge", "options": dict(how), "of": parts, "rows": rows, "tokens": tokens}
    entry["ledger"] = ledger.to_json()
    return [*first[:same], entry]


def _without(entry: Entry) -> dict[str, Any]:
    """An entry without its ledger, which is in the union."""
    return {key: value for key, value in entry.items() if key != "ledger"}
