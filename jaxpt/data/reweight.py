"""Weights that follow the losses: dynamic batch loading."""

import math
from collections.abc import Mapping

from jaxpt.errors import JaxptError


def reweight(
    weights: Mapping[str, float],
    losses: Mapping[str, float],
    reference: Mapping[str, float],
    *,
    rate: float = 1.0,
    floor: float = 1e-4,
    clip: bool = False,
) -> dict[str, float]:
    """Returns new weights: sources still far above their reference loss get more (Xia et al. 2024, algorithm 1).

    w' ∝ w · exp(rate · (loss - reference)) over the sources in use, then (1 - floor) · w' + floor / n, so that none is
    lost for good. Sources of weight 0 stay out.

    Args:
        weights: in force now; only their ratios count.
        losses: nats per token on held-out text, of every source in use.
        reference: the losses aimed at.
        rate: η, of the step in log weights.
        floor: c, the part shared out evenly.
        clip: differences below 0 count as 0, as the paper writes; its code does not.

    Raises:
        JaxptError: a loss or reference that is missing or not finite.
    """
    used = {n: w for n, w in weights.items() if w > 0}
    logits = {}
    for name, w in used.items():
        for what, values in (("loss", losses), ("reference loss", reference)):
            if name not in values or not math.isfinite(values[name]):
                raise JaxptError(f"reweight: source {name} has no {what} ({values.get(name)}); give one per source")
        above = losses[name] - reference[name]
        logits[name] = math.log(w) + rate * (max(above, 0.0) if clip else above)
    top = max(logits.values())
    raw = {n: math.exp(x - top) for n, x in logits.items()}
    total = sum(raw.values())
    mixed = {n: (1 - floor) * r / total + floor / len(raw) for n, r in raw.items()}
    total = sum(mixed.values())
    return {n: mixed[n] / total if n in mixed else 0.0 for n in weights}
