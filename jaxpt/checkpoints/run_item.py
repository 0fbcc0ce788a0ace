"""The `run` item of a checkpoint: step, tokens, model, schedule log, ledger and digests, under a digest of its own."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypedDict

from jaxpt.errors import JaxptError


class RunItem(TypedDict, total=False):
    """What a checkpoint says of its run, JSON-ready. `REQUIRED` keys are always there, others since some version."""

    step: int  # finished steps
    tokens: int  # positions (B × S) of the steps so far, also of those that changed nothing
    trained_tokens: int  # the same without steps that a guard skipped or a rollback passed over
    passed: list[list[int]]  # [first, stop) of rollbacks: the steps before this one that were not trained
    flops: float  # of the steps so far, forward passes of frozen models included
    model: dict[str, Any]  # of `ModelConfig.from_dict`, with the rope of the stage
    extra: dict[str, Any]  # of an objective's own things: dtype and shape by path
    guard: dict[str, Any]  # the same of what guards and clipping remember
    frozen: dict[str, dict[str, str]]  # of each path of a frozen model: the `path` and `digest` of what it names
    targets: dict[str, dict[str, str]]  # fingerprints of the caches of teacher targets, by stage and source
    digests: dict[str, list[str]]  # of the state's values, by path, one per layer
    finite: bool
    format: int
    digest: str  # of everything else in the item
    went_back: dict[str, Any]  # a `GoBack`
    history: list[dict[str, Any]]  # legs of the steps so far
    durations: dict[str, str]  # of the stages, as configured
    exact_durations: bool  # absent: counted in binary fractions, perhaps a step longer
    learning_rate: float | None  # of the last step
    learning_rate_next: float | None
    unmoved: bool  # the weights are those that the run started from; absent: unknown
    segments_since: dict[str, list[float]]  # by stage: the step and multiple from which a new segment began
    branch: dict[str, Any]  # of a branch: `run`, `step`, `learning_rate` and what `jaxpt.training.branching` adds
    schedule_log: dict[str, Any]
    ledger: list[dict[str, Any]]  # rows used, those of earlier runs (`prior_ledger`) included
    prior_ledger: list[dict[str, Any]]
    other_orders: bool
    fingerprints: dict[str, str]  # of the sources
    joined: list[dict[str, Any]]  # sources that were added on the way
    order_seeds: dict[str, int]
    leave_out_seen: bool


FORMAT = 2  # 1, which carries no number, had no digest and did not say whether the state was finite
REQUIRED = {"step": int, "tokens": int, "model": dict, "digests": dict}


class DamagedError(JaxptError):
    """Proven corruption: bytes that can be read are not those that were written."""


def seal(run: RunItem) -> RunItem:
    """Returns the item as it is saved: with its format and the digest of everything else in it."""
    run = json.loads(json.dumps({**run, "format": FORMAT}))  # as a reader will see it
    return {**run, "digest": _digest(run)}


def text(run: RunItem) -> str:
    """Returns the item as it is written."""
    return json.dumps(run)


def is_sealed(run: RunItem) -> bool:
    """Whether the item carries a digest of its own (and thus says that the state was finite)."""
    return "digest" in run


def read(checkpoint: Path) -> RunItem:
    """Reads and checks the `run` item of a checkpoint's folder, whose name is its step.

    Raises:
        DamagedError: it is not what was saved.
        OSError: it cannot be read, or is not there.
    """
    return parse((checkpoint / "run" / "metadata").read_bytes(), int(checkpoint.name))


def parse(text: bytes, step: int) -> RunItem:
    """Returns the item that `text` holds.

    Raises:
        DamagedError: no JSON, keys that are missing or of another type, another step, or a digest that does not match.
    """
    try:
        run: RunItem = json.loads(text)
    except (ValueError, RecursionError):  # also bytes that are no UTF-8 and numbers with too many digits
        raise DamagedError("its run item is not JSON") from None
    if (kind := type(run).__name__) != "dict":
        raise DamagedError(f"its run item holds a {kind}, no dictionary")
    if is_sealed(run):
        if run["digest"] != _digest(run):
            raise DamagedError("its run item does not match its digest")
    elif "format" in run or "finite" in run:
        raise DamagedError("its run item has lost its digest")
    for key, wanted in REQUIRED.items():
        if not isinstance(run.get(key), wanted):
            raise DamagedError(f"its run item has no {key}")
    if not all(isinstance(v, list) for v in run["digests"].values()):
        raise DamagedError("its run item has no digests of every layer")
    if run["step"] != step:
        raise DamagedError(f"its run item is that of step {run['step']}")
    return run


def _digest(run: RunItem) -> str:
    rest = {k: v for k, v in run.items() if k != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
