"""Clipping by group, entry and history, against the definitions written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.models.specs import ParamSpec, flatten
from jaxpt.optim.axis_groups import axis_groups
from jaxpt.optim.clippings.adagc import AdaGC
from jaxpt.optim.clippings.group_norm import GroupNorm
from jaxpt.optim.clippings.none import GlobalNormOnly
from jaxpt.optim.clippings.update_norm import UpdateNorm
from jaxpt.optim.clippings.value import EntryLimit
from jaxpt.optim.clippings.zclip import ZClip

SPECS = {
    "blocks": {
        "dense": {
            "gate": ParamSpec((2, 4, 3), ("layers", "embed", "mlp")),
            "up": ParamSpec((2, 4, 3), ("layers", "embed", "mlp")),
            "bias": ParamSpec((2, 3), ("layers", "experts"), state=True),
        }
    },
    "norm": ParamSpec((4,), ("embed",)),
}


def grads(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {path: spec.shape for path, spec in flatten(SPECS).items()}
    flat = {path: (scale * rng.standard_normal(shape)).astype(np.float32) for path, shape in shapes.items()}
    dense = {name: flat[f"blocks/dense/{name}"] for name in ("gate", "up", "bias")}
    return {"blocks": {"dense": dense}, "norm": flat["norm"]}


def norm(*arrays):
    return np.sqrt(sum(np.square(np.asarray(a, np.float64)).sum() for a in arrays))


def close(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-5, atol=1e-7, err_msg=path)


def course(clipping, scales):
    """Gradients as they come and as they are clipped, with the clipping's memory carried along."""
    state, out = clipping.init(SPECS), []
    clip = jax.jit(lambda g, s: clipping.gradients(g, s, SPECS))
    for i, scale in enumerate(scales):
        g = grads(i, scale)
        clipped, state = clip(g, state)
        out.append((g, jax.device_get(clipped)))
    return out, state


def test_groups_are_parameters_with_the_same_axes_without_what_no_gradient_moves():
    assert axis_groups(SPECS) == {"embed.mlp": ["blocks/dense/gate", "blocks/dense/up"], "embed": ["norm"]}


def test_a_group_is_scaled_by_its_own_norm_alone():
    ((g, clipped),), _ = course(GroupNorm(limit=2.5), [1.0])
    dense = g["blocks"]["dense"]
    large, small = norm(dense["gate"], dense["up"]), norm(g["norm"])
    assert large > 2.5 > small
    factor = 2.5 / large
    expected = {"gate": dense["gate"] * factor, "up": dense["up"] * factor, "bias": dense["bias"]}
    close(clipped, {"blocks": {"dense": expected}, "norm": g["norm"]})


def test_entries_are_cut_to_the_limit_and_the_direction_changes():
    ((g, clipped),), _ = course(EntryLimit(largest=0.3), [1.0])
    close(clipped, jax.tree.map(lambda x: np.clip(x, -0.3, 0.3), g))
    ratio = flatten(clipped)["norm"] / flatten(g)["norm"]
    assert ratio.max() - ratio.min() > 0.1


def test_zclip_is_its_rule_written_out():
    scales = [1.0, 1.1, 0.9, 1.05, 1.0, 0.95, 8.0, 1.0, 3.0, 1.0]
    seen, state = course(ZClip(decay=0.9, z=2.0, warmup=5), scales)
    norms = [norm(*jax.tree.leaves(g)) for g, _ in seen]
    mean, var = np.mean(norms[:5]), np.var(norms[:5])
    for i, (g, clipped) in enumerate(seen):
        limit = norms[i]
        if i >= 5:
            deviation = np.sqrt(var)
            z = (norms[i] - mean) / (deviation + 1e-6)
            limit = mean + 4.0 / z * deviation if z > 2.0 else norms[i]
            mean = 0.9 * mean + 0.1 * limit
            var = 0.9 * var + 0.1 * (limit - mean) ** 2
        close(clipped, jax.tree.map(lambda x: x * (limit / norms[i]), g))  # noqa: B023
    np.testing.assert_allclose([state["mean"], state["variance"]], [mean, var], rtol=1e-4)
    assert norm(*jax.tree.leaves(seen[6][1])) < norms[6] / 4


def test_adagc_limits_each_layer_by_its_own_mean():
    scales = [1.0, 0.8, 1.2, 1.0, 9.0, 1.0]
    seen, state = course(AdaGC(times=1.1, decay=0.9, warmup=3), scales)
    per_layer = [np.sqrt(np.square(g["blocks"]["dense"]["up"].astype(np.float64)).sum((1, 2))) for g, _ in seen]
    mean = np.min(per_layer[:3], axis=0)
    for i, (g, clipped) in enumerate(seen):
        factor = np.ones(2)
        if i >= 3:
            factor = np.minimum(1.0, 1.1 * mean / per_layer[i])
            mean = 0.9 * mean + 0.1 * factor * per_layer[i]
        up = g["blocks"]["dense"]["up"] * factor[:, None, None]
        np.testing.assert_allclose(clipped["blocks"]["dense"]["up"], up, rtol=1e-5)
    assert factor[0] != factor[1]
    np.testing.assert_allclose(flatten(state["means"])["blocks/dense/up"], mean, rtol=1e-5)


def test_an_update_is_limited_by_the_window_of_those_before_as_they_came():
    clipping = UpdateNorm(window=8, sigma=3.0)
    state, history = clipping.init(SPECS), []
    clip = jax.jit(clipping.updates)
    for i, scale in enumerate([1.0, 1.1, 1.0, 0.9, 6.0, 1.0, 6.0]):
        g = grads(i, scale)
        clipped, state = clip(g, state)
        have, last = norm(*jax.tree.leaves(g)), np.array(history[-8:])
        limit = last.mean() + 3 * last.std(ddof=1) if len(last) >= 4 else np.inf
        np.testing.assert_allclose(norm(*jax.tree.leaves(clipped)), min(have, limit), rtol=1e-5)
        assert (limit < have) == (i == 4)  # the first spike; it has widened the window
        history.append(have)
    kept, after = clip(jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), g), state)
    assert int(after["entries"]) == int(state["entries"])
    assert np.isfinite(after["norms"]).all()
    assert np.isnan(flatten(kept)["norm"]).all()  # the guard's business


@pytest.mark.parametrize("clipping", [GlobalNormOnly(), GroupNorm(limit=1e6), EntryLimit(largest=1e6)])
def test_what_is_within_the_limit_is_left_as_it_is(clipping):
    ((g, clipped),), state = course(clipping, [1.0])
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(clipped)))
    assert state == {}
