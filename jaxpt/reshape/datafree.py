"""Scores from the weights alone, read slice by slice: norms of what writes an axis times norms of what reads it.

For a neuron j: |gate_j| |up_j| |down_j|, nothing where one of them is zero; for an expert: the norm of
its neurons' scores; for a head: |v_g| |o_h|, v being that of its kv head; for a residual channel: all writers' norms
times all readers'. Weaker than scores from data, and free.
"""

import numpy as np

from jaxpt.models import ParamSpec, flatten, param_specs
from jaxpt.models.specs import block_specs
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import ModelSlices

PIECE = 1 << 22  # entries that are held in float32 at a time


def weight_scores(source: ModelSlices) -> Scores:
    """Returns data-free scores of a model: of every axis it has (`experts` included), not of whole layers.

    The source is read once, one slice at a time.
    """
    c = source.config
    values = {
        "mlp": np.zeros((len(c.layers), c.mlp), np.float32),
        "heads": np.zeros((len(c.layers), c.heads), np.float32),
        "kv_heads": np.zeros((len(c.layers), c.kv_heads), np.float32),
        "head_dim": np.zeros((len(c.layers), c.kv_heads, c.head_dim), np.float32),
    }
    if c.moe is not None:
        shape = (len(c.layers), c.moe.experts)
        values |= {"experts": np.zeros(shape, np.float32), "expert_mlp": np.zeros((*shape, c.moe.mlp), np.float32)}
        if c.moe.shared_mlp:
            values["shared_mlp"] = np.zeros((len(c.layers), c.moe.shared_mlp), np.float32)
    stream = {"writes": np.zeros(c.embed), "reads": np.zeros(c.embed)}
    for l in range(len(c.layers)):
        _layer(source, l, values, stream)
    for path, spec in flatten(param_specs(c)).items():
        if not spec.stacked and not spec.gain and spec.residual in stream:
            _add_stream(stream, spec, np.asarray(source.read(path)))
    values["embed"] = np.sqrt(stream["writes"] * stream["reads"]).astype(np.float32)
    return Scores(values, {"method": "weights", "data": None, "tokens": 0, "flops": 0.0})


def _layer(source: ModelSlices, l: int, values: dict[str, np.ndarray], stream: dict[str, np.ndarray]) -> None:
    c = source.config
    structure = c.layers[l].ffn
    stack = c.layers_of(structure).index(l)
    widths: dict[str, np.ndarray] = {}
    out = np.zeros((c.heads, c.head_dim))
    value = np.zeros((c.kv_heads, c.head_dim))
    for name, spec in block_specs(c, structure).items():
        if len(spec.axes) < 2 or spec.gain or not spec.fan_in_axes:
            continue
        x = np.asarray(source.read(f"blocks/{structure}/{name}", stack))
        if spec.residual in stream:
            _add_stream(stream, spec, x)
        if width := next((a for a in ("mlp", "expert_mlp", "shared_mlp") if a in spec.axes), None):
            widths[width] = widths.get(width, 1) * _energy(x, spec, ("experts", width))
        elif "heads" in spec.fan_in_axes:
            out += _energy(x, spec, ("heads", "head_dim"))
        elif "kv_heads" in spec.axes and not spec.rotary:
            value += _energy(x, spec, ("kv_heads", "head_dim"))
    group_out = out.reshape(c.kv_heads, c.group, c.head_dim)
    for axis, energy in widths.items():
        values[axis][l] = np.sqrt(energy)
    if "expert_mlp" in widths:
        values["experts"][l] = np.sqrt(widths["expert_mlp"].sum(-1))
    values["heads"][l] = np.sqrt(out.sum(-1) * np.repeat(value.sum(-1), c.group))
    values["kv_heads"][l] = np.sqrt(group_out.sum((1, 2)) * value.sum(-1))
    values["head_dim"][l] = np.sqrt(group_out.sum(1) * value)


def _energy(x: np.ndarray, spec: ParamSpec, axes: tuple[str, ...]) -> np.ndarray:
    """Sum of squares over all dimensions but `axes`, float64; in pieces, so that no float32 copy of x exists."""
    over = tuple(i for i, a in enumerate(spec.axes) if a not in axes)
    out = np.zeros([n for i, n in enumerate(x.shape) if i not in over])
    step = max(1, x.shape[0] * PIECE // max(1, x.size))
    for start in range(0, x.shape[0], step):
        piece = x[start : start + step].astype(np.float32)
        np.square(piece, out=piece)
        if 0 in over:
            out += piece.sum(over)
        else:
            out[start : start + step] = piece.sum(over)
    return out


def _add_stream(stream: dict[str, np.ndarray], spec: ParamSpec, x: np.ndarray) -> None:
    energy = _energy(x, spec, ("embed",))
    mean = energy.mean()
    stream[spec.residual] += energy / mean if mean > 0 else energy  # each parameter counts alike, whatever its size
