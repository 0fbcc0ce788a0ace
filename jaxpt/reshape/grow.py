"""Grows a model: wider by copies (FPI, AKI, noise that cancels), deeper by identity blocks, stacks or repeats.

Zero-padding with random readers, the default for width, is `jaxpt.reshape.axes.pad`; copies with exact norms are
`duplicate` there.
"""

import itertools

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig
from jaxpt.models.specs import GLOBAL_AXES
from jaxpt.reshape.axes import axis_size, duplicate, rewrite_axes, role, with_groups
from jaxpt.reshape.ops import Scale, Take
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite, Term


def _copied(config: ModelConfig, axis: str, size: int, seed: int | None) -> np.ndarray:
    """All old positions, then copies of them: one row for a global axis, one per layer otherwise.

    Copies are uniform samples, or without a seed the old positions over again.
    """
    old = axis_size(config, axis)
    if not old <= size:
        raise JaxptError(f"target.{axis} is {size}, smaller than the source's {old}; growth only makes an axis longer")
    count = 1 if axis in GLOBAL_AXES else len(config.layers)
    parts = config.kv_heads if axis == "heads" else 1  # query heads are copied within their group
    if size % parts:
        raise JaxptError(f"target.heads is {size}, not a multiple of kv_heads ({parts})")
    n, more = old // parts, (size - old) // parts
    rng = np.random.default_rng(seed)
    copies = lambda: np.arange(more) % n if seed is None else rng.integers(0, n, more)  # noqa: E731
    rows = [
        np.concatenate([p * n + np.concatenate([np.arange(n), copies()]) for p in range(parts)]) for _ in range(count)
    ]
    return rows[0] if axis in GLOBAL_AXES else np.stack(rows)


def repeat(config: ModelConfig, axis: str, size: int, seed: int = 0, noise: float = 0.0) -> Rewrite:
    """Returns the growth of `axis` to any larger size by copies as even as they can be: 0 … n-1, 0 … n-1, and so on.

    At a multiple of the old size every position has equally many copies (Samragh et al. 2024, HyperCloning). The rule
    for the norms and `noise` (drawn from `seed`) are those of `fpi`.

    Raises:
        JaxptError: as `fpi`.
    """
    index = _copied(config, axis, size, None)
    rewrite = duplicate(config, axis, index).with_entry(seed=seed)
    rewrite = rewrite.with_entry(options={**rewrite.entry["options"], "noise": noise})
    return _with_noise(rewrite, axis, index, noise, seed) if noise else rewrite


def fpi(config: ModelConfig, axis: str, size: int, seed: int = 0, noise: float = 0.0) -> Rewrite:
    """Returns bert2BERT's function-preserving growth of `axis` (Chen et al. 2022, section 3.2), to any larger size.

    Old positions stay, new ones are copies of uniform samples; norms follow the corrected rule of `duplicate`.
    `noise` adds normal values of that deviation to one copy's readers and takes them from another's, so that they
    cancel and copies learn apart; a position left over in an odd group stays clean.

    Raises:
        JaxptError: a smaller size, or an axis that cannot be duplicated.
    """
    index = _copied(config, axis, size, seed)
    rewrite = duplicate(config, axis, index)
    options = {"axis": axis, "size": size, "noise": noise}
    rewrite = rewrite.with_entry(op="fpi", options=options, seed=seed)
    return _with_noise(rewrite, axis, index, noise, seed) if noise else rewrite


def _partners(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs the copies of each position: where a position's noise is drawn, and its sign (0: no partner)."""
    at, sign = np.arange(len(row)), np.zeros(len(row), np.float32)
    for value in np.unique(row):
        same = np.flatnonzero(row == value)
        for a, b in zip(same[::2], same[1::2]):
            at[b], sign[a], sign[b] = a, 1.0, -1.0
    return at, sign


def _with_noise(rewrite: Rewrite, axis: str, index: np.ndarray, noise: float, seed: int) -> Rewrite:
    if axis == "kv_heads":  # what reads a group is o, by the group's query heads
        axis, index = "heads", with_groups(rewrite.source, index)
    per_layer = axis not in GLOBAL_AXES
    made = [_partners(row) for row in (index if per_layer else index[None])]
    at, sign = (np.stack([m[i] for m in made]) for i in (0, 1))
    rules: dict[str, ParamRule] = dict(rewrite.rules)
    for path, spec in rewrite.specs.items():
        if axis not in spec.axes or role(spec, axis) != "reader":
            continue
        dim = spec.axes.index(axis) - spec.stacked
        scale = np.float32(noise / spec.init_std)
        layers = np.array(rewrite.target.layers_of(path.split("/")[1])) if spec.stacked else np.arange(1)
        a, s = (at[layers], sign[layers] * scale) if per_layer else (at[0], sign[0] * scale)
        ops = (Take(dim, a, per_layer=per_layer), Scale(dim, s, per_layer=per_layer))
        rules[path] = (*rules[path], Term(None, ops, None, seed))
    return Rewrite(rewrite.source, rewrite.target, rules, rewrite.entry)


def aki(config: ModelConfig, size: int, seed: int = 0) -> Rewrite:
    """Returns bert2BERT's AKI growth of `mlp` (Chen et al. 2022, section 3.3): new neurons are layer l + 1's.

    Old neurons and `down` are those of `fpi` with the same seed; the new columns of gate and up come from the next
    layer of the same kind, the last layer's from itself. Not function-preserving: the entry says so, and the loss at
    step 0 has to be measured.

    Raises:
        JaxptError: a smaller size.
    """
    rewrite = fpi(config, "mlp", size, seed)
    new = np.arange(size) >= config.mlp
    rules: dict[str, ParamRule] = dict(rewrite.rules)
    for path, spec in rewrite.specs.items():
        if "mlp" not in spec.axes or role(spec, "mlp") != "writer":
            continue
        dim = spec.axes.index("mlp") - spec.stacked
        (term,) = rewrite.rules[path]
        assert term.layers is not None
        after = np.minimum(term.layers + 1, spec.shape[0] - 1)
        old_part = Term(path, (*term.ops, Scale(dim, (~new).astype(np.float32))), term.layers)
        new_part = Term(path, (*term.ops, Scale(dim, new.astype(np.float32))), after)
        rules[path] = (old_part, new_part)
    entry: LineageEntry = {**rewrite.entry, "op": "aki", "exact": False, "why": "new neurons are the next layer's"}
    return Rewrite(rewrite.source, rewrite.target, rules, entry)


def llama_pro(config: ModelConfig, new: int) -> Rewrite:
    """Returns the rewrite that inserts `new` identity blocks at even spacing (Wu et al. 2024, arXiv 2401.02415).

    An inserted block copies the one before it with everything that writes to the stream zero, so logits are equal bit
    for bit and gradients still reach it. The entry's `freeze` holds the rules that train only the new blocks.

    Raises:
        JaxptError: more blocks than layers, or none.
    """
    count = len(config.layers)
    if not 1 <= new <= count:
        raise JaxptError(f"llama_pro: {new} new blocks do not fit {count} layers; at least 1, at most {count}")
    after = {round((i + 1) * count / new) - 1 for i in range(new)}
    layers, fresh = [], []
    for l in range(count):
        layers.append(l)
        if l in after:
            fresh.append(len(layers))
            layers.append(l)
    rewrite = rewrite_axes(config, {}, layers=layers)
    rules: dict[str, ParamRule] = dict(rewrite.rules)
    for path, spec in rewrite.specs.items():
        if spec.stacked and spec.residual == "writes" and not spec.gain:
            at = rewrite.target.layers_of(path.split("/")[1])
            keep = np.array([0.0 if l in fresh else 1.0 for l in at], np.float32)
            (term,) = rules[path]
            rules[path] = (Term(term.source, (*term.ops, Scale(None, keep, per_layer=True)), term.layers),)
    edges = [-1, *fresh, len(layers)]
    old = [f"layers[{a + 1}:{b}]" for a, b in itertools.pairwise(edges) if b > a + 1]
    options = {"new": new, "blocks": fresh}
    entry: LineageEntry = {"op": "llama_pro", "options": options, "exact": True, "tokens": 0, "flops": 0.0}
    entry["why"] = "new blocks add zero to the stream"
    outer = [path for path, spec in rewrite.specs.items() if not spec.stacked and "vocab" not in spec.axes]
    entry["freeze"] = ["vocab", *outer, *old]
    return Rewrite(config, rewrite.target, rules, entry)


def _deeper(config: ModelConfig, op: str, order: list[int], **options: int) -> Rewrite:
    entry: LineageEntry = {"op": op, "options": options, "exact": False, "why": "layers run more than once"}
    return rewrite_axes(config, {}, layers=order, entry={**entry, "tokens": 0, "flops": 0.0})


def _more_layers(config: ModelConfig, op: str, layers: int) -> int:
    count = len(config.layers)
    if layers < count:
        raise JaxptError(f"target.layers is {layers}, fewer than the source's {count}; {op} only adds layers")
    return count


def stack(config: ModelConfig, layers: int) -> Rewrite:
    """Returns the rewrite that repeats the whole stack up to `layers` (G_stack, Du et al. 2024, arXiv 2405.15319).

    What is not a whole stack is taken from the top, as bert2BERT does (Chen et al. 2022).

    Raises:
        JaxptError: fewer layers than there are.
    """
    count = _more_layers(config, "stack", layers)
    order = list(range(count)) * (layers // count) + list(range(count - layers % count, count))
    return _deeper(config, "stack", order, layers=layers)


def interpolate(config: ModelConfig, layers: int) -> Rewrite:
    """Returns the rewrite that repeats layers in place, as evenly as `layers` in all allows.

    Raises:
        JaxptError: fewer layers than there are.
    """
    count = _more_layers(config, "interpolate", layers)
    return _deeper(config, "interpolate", [i * count // layers for i in range(layers)], layers=layers)


def depth_up_scale(config: ModelConfig, overlap: int) -> Rewrite:
    """Returns the rewrite of two copies, without the last `overlap` layers of the first and the first of the second.

    Source: SOLAR (Kim et al. 2023, arXiv 2312.15166).

    Raises:
        JaxptError: an overlap that leaves nothing.
    """
    count = len(config.layers)
    if not 0 <= overlap < count:
        raise JaxptError(f"depth_up_scale: overlap is {overlap}, it must be 0 … {count - 1}")
    return _deeper(config, "depth_up_scale", [*range(count - overlap), *range(overlap, count)], overlap=overlap)
