"""Iterated removal of layers: score, drop the least important, make up for it, and score again."""

from collections.abc import Sequence

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import Compute
from jaxpt.models.batch import Rows
from jaxpt.reshape.calibrate import activation_scores, removal_losses
from jaxpt.reshape.depth import drop_and_rescale, drop_layers
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.stream import ModelSlices, Reshaped

BY = ("influence", "loss")


def prune_depth(
    source: ModelSlices,
    layers: int,
    batches: Sequence[Rows[np.ndarray]],
    *,
    by: str = "influence",
    rescale: bool = True,
    compute: Compute = Compute(),  # noqa: B008
) -> list[Rewrite]:
    """Returns one rewrite per removed layer, to be applied in order.

    Args:
        source: the model.
        layers: how many are to stay.
        batches: see `jaxpt.reshape.walk`; for "loss" also `targets` and `loss_weights`.
        by: "influence" drops the lowest Block Influence (Men et al. 2024), "loss" the layer whose removal costs least.
        rescale: restore the stream's norm after each removal, see `drop_and_rescale`.
        compute: dtypes and attention implementation.

    Raises:
        JaxptError: more layers than there are, an unknown `by`.
    """
    count = len(source.config.layers)
    if not 1 <= layers <= count:
        raise JaxptError(f"target.layers is {layers}, it must be between 1 and the source's {count}")
    if by not in BY:
        raise JaxptError(f"prune_depth: by is {by!r}, it must be one of {', '.join(BY)}")
    rewrites: list[Rewrite] = []
    while len(source.config.layers) > layers:
        scores = activation_scores(source, batches, data="pass", compute=compute)
        tokens, flops = scores.meta["tokens"], scores.meta["flops"]
        importance = scores.get("layers")
        if by == "loss":
            importance = removal_losses(source, batches, compute)
            flops *= 1 + len(importance)
        l = int(np.argmin(importance))
        c = source.config
        rewrite = drop_and_rescale(c, [l], [float(scores.get("layers_gain")[l])]) if rescale else drop_layers(c, [l])
        rewrite = rewrite.with_entry(by=by, score=float(importance[l]), tokens=tokens, flops=flops)
        rewrites.append(rewrite)
        source = Reshaped(source, rewrite)
    return rewrites
