"""What came of a point: read from the metrics of its run, kept as lines of results.jsonl."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from jaxpt.errors import JaxptError, nearest
from jaxpt.files.partial import whole_file
from jaxpt.training.metrics import read

PointState = Literal["finished", "diverged", "failed", "stopped"]
Losses = list[tuple[int, float]]  # (tokens, value)
LOSS = "train/loss"
LAST = 0.1  # of the tokens so far: the part whose training losses are averaged
MOST = 200  # points of a curve that is kept


@dataclass(frozen=True)
class PointResult:
    """One line of results.jsonl.

    `state`: finished (it trained up to `tokens`), diverged (its loss or a norm is not finite, which is a result),
    failed (`error` is the last line of its log; it is tried again at the next start) or stopped (by a signal).
    `loss` is that of `metric`, None where it is not finite or not there; `curve` is (tokens, training loss).
    """

    point: str
    values: Mapping[str, object]
    rung: int
    state: PointState
    step: int
    tokens: int
    metric: str
    loss: float | None
    flops: float
    tokens_per_s: float | None
    error: str
    curve: Losses

    @property
    def score(self) -> float:
        """The loss; infinite where there is none."""
        return math.inf if self.loss is None else self.loss


def measure(records: Sequence[Mapping[str, Any]], metric: str, tokens: int) -> float | None:
    """Returns the value of `metric` after `tokens`, lower being better; None where it was not logged.

    Of `train/loss` and all below it, the mean over the last tenth of the tokens so far; of any other metric the last
    value. `PREFIX/*` is the mean of all whose names begin so.
    """
    if metric.endswith("/*"):
        names = {n for r in records for n in r if n.startswith(metric[:-1]) and isinstance(r[n], int | float)}
        values = [v for name in sorted(names) if (v := measure(records, name, tokens)) is not None]
        return float(np.mean(values)) if values else None
    known = [(r["tokens"], r[metric]) for r in records if r.get(metric) is not None and 0 <= r["tokens"] <= tokens]
    if not known:
        return None
    if not metric.startswith(LOSS):
        return float(known[-1][1])
    last = known[-1][0]
    return float(np.mean([value for at, value in known if at > last * (1 - LAST)]))


def curve_of(records: Sequence[Mapping[str, Any]], name: str, tokens: float = math.inf) -> Losses:
    """Returns (tokens, value) of a metric up to `tokens`, not more than `MOST` of them: means of neighbours."""
    known = [(r["tokens"], float(r[name])) for r in records if r.get(name) is not None and r["tokens"] <= tokens]
    size = max(1, math.ceil(len(known) / MOST))
    parts = [known[i : i + size] for i in range(0, len(known), size)]
    return [(part[-1][0], float(np.mean([value for _, value in part]))) for part in parts]


def smoothed(curve: Losses) -> Losses:
    """Returns at each place the mean over the last tenth of the tokens so far, as `measure` takes it."""
    return [(t, float(np.mean([v for at, v in curve if t * (1 - LAST) < at <= t]))) for t, _ in curve]


def reached(curve: Sequence[tuple[float, float]], level: float) -> float:
    """Returns the tokens at which a curve first falls to `level`, interpolated; NaN if it never does."""
    if curve and curve[0][1] <= level:
        return float(curve[0][0])
    for (t0, l0), (t1, l1) in itertools.pairwise(curve):
        if l1 <= level < l0:
            return t0 + (t1 - t0) * (l0 - level) / (l0 - l1)
    return float("nan")


def result_of(
    name: str, values: Mapping[str, object], run: Path, rung: int, tokens: int, step: int, done: int, metric: str,
    stopped: bool, error: str,
) -> PointResult:  # fmt: skip
    """Reads what a run came to.

    Args:
        name: the point's.
        values: the point's, by key.
        run: its run directory.
        rung: which rung it was to reach.
        tokens: those of the rung, by the run's plan.
        step: the step of the rung.
        done: the newest step of which there is a checkpoint.
        metric: what is compared.
        stopped: whether the sweep was asked to stop.
        error: the last line of its log.

    A run that is finished and never logged `metric` counts as failed.
    """
    file = run / "metrics.jsonl"
    records = [r for r in read(file) if "tokens" in r] if file.is_file() else []
    finished = done >= step
    diverged = not finished and _is_wild(next((r for r in reversed(records) if LOSS in r), {}))
    reach = min(tokens, records[-1]["tokens"]) if records else 0
    value = measure(records, metric, tokens) if finished else None
    state: PointState = "finished" if finished else "diverged" if diverged else "stopped" if stopped else "failed"
    if finished and value is None:
        logged = sorted({n for r in records for n in r if "/" in n and not n.startswith(("perf/", "data/"))})
        known = f"{nearest(metric, logged)}; it logged {', '.join(logged) or 'nothing'}"
        state, error = "failed", f"{file} has no {metric} up to {tokens:,} tokens{known}; give another --metric"
    elif finished and value is not None and not math.isfinite(value):
        state = "diverged"
    within = [r for r in records if r["tokens"] <= tokens]
    return PointResult(
        name, dict(values), rung, state, min(done, step), reach, metric,
        value if value is not None and math.isfinite(value) else None,
        next((float(r["flops"]) for r in reversed(within) if "flops" in r), 0.0),
        speed(within), error if state == "failed" else "",
        [(t, v) for t, v in curve_of(records, LOSS, tokens) if math.isfinite(v)],
    )  # fmt: skip


def _is_wild(record: Mapping[str, Any]) -> bool:
    """Whether the loss of a step, or a norm beside it, is not finite: a run stops at such a step."""
    values = [v for name, v in record.items() if name.startswith("train/") and isinstance(v, int | float)]
    return not all(math.isfinite(v) for v in values)


def speed(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns the median tokens per second of laps without a compilation; None where there is none."""
    warm = [r["perf/tokens_per_s"] for r in records if "perf/tokens_per_s" in r and not r.get("perf/warmup")]
    return float(median(warm)) if warm else None


def write_results(path: Path, results: Sequence[PointResult]) -> None:
    """Writes results.jsonl anew, whole or not at all."""
    with whole_file(path, path.with_name(path.name + ".tmp")) as temporary:
        temporary.write_text("".join(json.dumps(asdict(r), allow_nan=False) + "\n" for r in results), encoding="utf-8")


def read_results(path: Path) -> list[PointResult]:
    """Returns the lines of a results.jsonl; none where there is no file.

    Raises:
        JaxptError: a line that is none of it.
    """
    if not path.exists():
        return []
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            held = json.loads(line)
            out.append(PointResult(**{**held, "curve": [(int(t), float(v)) for t, v in held["curve"]]}))
        except (ValueError, TypeError, KeyError) as error:
            raise JaxptError(
                f"{path}: line {number} is no result ({error}); remove the file, it is made anew"
            ) from error
    return out
