"""Smaller heads: RoPE pairs kept at the frequencies the smaller head would have, v and o dimensions by importance."""

import dataclasses

import numpy as np

from jaxpt.models import ModelConfig, RopeConfig
from jaxpt.models.rope import inverse_frequencies
from jaxpt.reshape.axes import AxisMap
from jaxpt.reshape.scores import Scores


def matched_pairs(head_dim: int, keep: int) -> np.ndarray:
    """Returns which of the head_dim / 2 rotated pairs a head of size `keep` takes: evenly spaced, `[keep / 2]`.

    Where keep divides head_dim the pairs at stride m = head_dim / keep turn at theta^(-2 j m / head_dim), the smaller
    head's own frequencies.
    """
    return (np.arange(keep // 2) * head_dim) // keep


def head_dim_maps(
    config: ModelConfig, keep: int, scores: Scores | None
) -> tuple[dict[str, AxisMap], dict[str, object]]:
    """Returns the axis maps and config changes that cut heads to `keep` dimensions.

    q and k keep `matched_pairs` in all layers, as the frequencies belong to the model; v and o keep, by kv head, the
    dimensions of highest score (`head_dim [L, K, h]`), or the matched ones without scores. Frequencies that no
    formula gives are in `rope.inv_freq`.
    """
    pairs = matched_pairs(config.head_dim, keep)
    both = np.concatenate([pairs, pairs + config.head_dim // 2])
    count = len(config.layers)
    maps = {"rotary_dim": AxisMap(np.broadcast_to(both, (count, keep)))}
    if scores is not None and "head_dim" in scores.values:
        best = np.argsort(-scores.values["head_dim"], axis=-1, kind="stable")[..., :keep]
        maps["head_dim"] = AxisMap(np.sort(best, axis=-1))
    else:
        maps["head_dim"] = AxisMap(np.broadcast_to(both, (count, keep)))
    changes: dict[str, object] = {"head_dim": keep, "rope": _kept_frequencies(config.rope, config.head_dim, pairs)}
    if config.rope_local is not None:
        changes["rope_local"] = _kept_frequencies(config.rope_local, config.head_dim, pairs)
    return maps, changes


def _kept_frequencies(rope: RopeConfig, head_dim: int, pairs: np.ndarray) -> RopeConfig:
    speeds, _ = inverse_frequencies(rope, head_dim)
    kept = speeds[pairs]
    plain = dataclasses.replace(rope, inv_freq=None)
    same, _ = inverse_frequencies(plain, 2 * len(pairs))
    if rope.inv_freq is None and np.allclose(same, kept, rtol=1e-6, atol=0):
        return plain
    return dataclasses.replace(rope, inv_freq=tuple(float(f) for f in kept))
