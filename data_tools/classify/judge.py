"""How good a classifier is: held-out precision and recall, and calibration."""

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from jaxpt.errors import JaxptError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


STYLE = """
:root{color-scheme:light dark} body{font:14px sans-serif;margin:2em 1em;background:#fff;color:#222}
td,th{padding:2px 10px;text-align:right}
td:first-child,th:first-child{text-align:left;overflow-wrap:anywhere;min-width:6em;padding-left:0}
@media (max-width:40em){td,th{padding:2px 5px}}
.scroll{overflow-x:auto} svg{max-width:100%;height:auto} h1{font-size:1.4em}
@media (prefers-color-scheme:dark){body{background:#14181f;color:#dde3ea} svg{filter:invert(.92) hue-rotate(180deg)}}
"""


def held_out(text: str, share: float, seed: int = 0) -> bool:
    """Whether a text belongs to the held-out part: decided by its content, so that copies never straddle the split."""
    folded = " ".join(text.lower().split()).encode("utf-8", "replace")
    return xxhash.xxh3_64_intdigest(folded, seed=seed) < share * 2.0**64


@dataclass(frozen=True)
class LabelScore:
    """Counts and rates of one label."""

    label: str
    examples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Calibration:
    """Stated probability against what happened, in bins of equal width."""

    stated: np.ndarray  # [bins] mean probability of the predicted label; nan where empty
    happened: np.ndarray  # [bins] share of correct predictions; nan where empty
    count: np.ndarray  # [bins]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap, weighted by count (Naeini et al. 2015)."""
        filled = self.count > 0
        gap = np.abs(self.stated[filled] - self.happened[filled])
        return float((gap * self.count[filled]).sum() / max(self.count.sum(), 1))


@dataclass(frozen=True)
class Judgement:
    """Everything measured on the held-out examples."""

    accuracy: float
    labels: tuple[LabelScore, ...]
    confusion: np.ndarray  # [true, predicted]
    calibration: Calibration

    def to_dict(self) -> dict:
        """Returns plain JSON types."""
        nan = lambda values: [None if np.isnan(v) else float(v) for v in values]  # noqa: E731
        return {
            "accuracy": self.accuracy,
            "labels": [vars(s) for s in self.labels],
            "confusion": self.confusion.tolist(),
            "calibration": {
                "error": self.calibration.error,
                "stated": nan(self.calibration.stated),
                "happened": nan(self.calibration.happened),
                "count": self.calibration.count.tolist(),
            },
        }


def judge(probabilities: np.ndarray, truth: Sequence[str], labels: Sequence[str], bins: int = 10) -> Judgement:
    """Compares predictions with the truth.

    Args:
        probabilities: `[n, labels]`.
        truth: n true labels.
        labels: names of the columns.
        bins: of the calibration.

    Raises:
        JaxptError: nothing to judge by, or a true label that the classifier does not know.
    """
    if not len(truth):
        raise JaxptError("classify: no held-out examples to judge by; raise held_out or give more examples")
    unknown = sorted(set(truth) - set(labels))
    if unknown:
        raise JaxptError(
            f"classify: held-out label {unknown[0]!r} never occurs in training; known: {', '.join(labels)}"
        )
    true = np.array([list(labels).index(t) for t in truth])
    best = probabilities.argmax(axis=1)
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion, (true, best), 1)
    scores = []
    for i, label in enumerate(labels):
        hit, predicted, real = confusion[i, i], confusion[:, i].sum(), confusion[i].sum()
        precision, recall = float(hit / max(predicted, 1)), float(hit / max(real, 1))
        scores.append(
            LabelScore(label, int(real), precision, recall, 2 * precision * recall / max(precision + recall, 1e-12))
        )
    stated, right = probabilities.max(axis=1), best == true
    where = np.minimum((stated * bins).astype(int), bins - 1)
    count = np.bincount(where, minlength=bins)
    with np.errstate(invalid="ignore"):
        calibration = Calibration(
            np.bincount(where, stated, bins) / count, np.bincount(where, right, bins) / count, count
        )
    return Judgement(float(right.mean()), tuple(scores), confusion, calibration)


def diagram(calibration: Calibration) -> "Figure":
    """Draws stated probability against what happened, with 68 % intervals (Wilson), and below it how many texts."""
    from matplotlib.figure import Figure  # 0.5 s, which only training needs

    filled = calibration.count > 0
    stated, happened = calibration.stated[filled], calibration.happened[filled]
    number = calibration.count[filled]
    middle = (happened * number + 0.5) / (number + 1)
    reach = np.sqrt(happened * (1 - happened) * number + 0.25) / (number + 1)
    bars = np.stack([happened - middle + reach, middle + reach - happened]).clip(0)
    edges = np.linspace(0, 1, len(calibration.count) + 1)
    figure = Figure(figsize=(4.6, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], "--", color="0.6", label="as stated")
    top.errorbar(stated, happened, bars, fmt="o-", color="#b33", capsize=3, label="held-out texts")
    top.set(ylabel="share that was right", xlim=(0, 1), ylim=(0, 1.02))
    top.legend(loc="upper left", frameon=False)
    bottom.bar(edges[:-1], calibration.count, np.diff(edges), align="edge", color="#99b", edgecolor="white")
    bottom.set(xlabel="stated probability of the chosen label", ylabel="texts")
    return figure


def _svg(figure: "Figure") -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "calibration"}):  # the same bytes every time
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def picture(judgement: Judgement, title: str) -> str:
    """Returns an HTML page: the reliability diagram and the table per label."""
    rows = "".join(
        f"<tr><td>{html.escape(s.label)}</td><td>{s.examples:,}</td><td>{s.precision:.3f}</td><td>{s.recall:.3f}</td>"
        f"<td>{s.f1:.3f}</td></tr>"
        for s in judgement.labels
    )
    return f"""<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>Held-out accuracy {judgement.accuracy:.3f}, expected calibration error {judgement.calibration.error:.3f}.</p>
{_svg(diagram(judgement.calibration))}
<div class="scroll"><table><tr><th>label</th><th>texts</th><th>precision</th><th>recall</th><th>F1</th></tr>{rows}
</table></div>
"""
