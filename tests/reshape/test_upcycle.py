"""Upcycling keeps the function where theory says so, and not where it does not."""

import dataclasses

import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models import flatten
from jaxpt.reshape.apply import apply
from jaxpt.reshape.upcycle import Upcycling, average_experts, upcycle
from tests.models.tiny import config
from tests.reshape.proofs import close, logits, random_params, reshaped

C = config()
P = random_params(C)
WANT = logits(C, P)
COPIES = Upcycling(4, 2, keep=1.0)
GRANULAR = Upcycling(8, 4, granularity=2, keep=1.0)


@pytest.mark.parametrize(
    "options",
    [
        COPIES,
        GRANULAR,
        dataclasses.replace(GRANULAR, scale="down"),
        dataclasses.replace(GRANULAR, scale="route"),
        dataclasses.replace(GRANULAR, weights="softmax", router_std=0.0),
        dataclasses.replace(GRANULAR, shared_mlp=8),
        Upcycling(8, 4, granularity=4, keep=1.0, router_std=1.0),
    ],
    ids=["C1", "C4", "C4_down", "C4_route", "C5", "C7", "C4_large_router"],
)
def test_exact_upcyclings_compute_what_the_dense_model_computes(options):
    assert options.exactness()[0]
    close(reshaped(upcycle(C, options), P), WANT)


@pytest.mark.parametrize(
    "options",
    [
        dataclasses.replace(GRANULAR, experts_per_token=3),
        dataclasses.replace(GRANULAR, scale="cube_root"),
        dataclasses.replace(GRANULAR, scale="none"),
        dataclasses.replace(GRANULAR, keep=0.9),
        dataclasses.replace(COPIES, weights="softmax", router_std=1.0),
    ],
    ids=["k_no_multiple", "cube_root", "unscaled", "redrawn", "raw_weights"],
)
def test_inexact_upcyclings_are_detected_and_are_inexact(options):
    assert not options.exactness()[0]
    rewrite = upcycle(C, options)
    assert rewrite.entry["exact"] is False
    assert rewrite.entry["why"]
    assert np.abs(reshaped(rewrite, P) - WANT).max() > 1e-2 * np.abs(WANT).max()


def test_some_layers_can_stay_dense():
    rewrite = upcycle(C, GRANULAR, layers=[1])
    assert [s.ffn for s in rewrite.target.layers] == ["dense", "moe", "dense"]
    close(reshaped(rewrite, P), WANT)


def test_the_average_of_copies_is_the_dense_model():
    rewrite = upcycle(C, dataclasses.replace(COPIES, permute=False))
    back = apply(average_experts(rewrite.target), apply(rewrite, P))
    for path, leaf in flatten(back).items():
        np.testing.assert_allclose(leaf, flatten(P)[path], rtol=1e-6, atol=1e-7, err_msg=path)


@pytest.mark.parametrize("shared_index", [True, False])
def test_exactly_the_announced_neurons_are_redrawn(shared_index):
    whole = dataclasses.replace(COPIES, keep=1.0)
    part = dataclasses.replace(COPIES, keep=0.6, shared_index=shared_index)
    a, b = (flatten(apply(upcycle(C, o, seed=3), P)) for o in (whole, part))
    changed = {}
    for name, dim in (("gate", 2), ("up", 2), ("down", 3)):
        path = f"blocks/moe/expert_{name}"
        changed[name] = np.any(a[path] != b[path], axis=dim)  # [L, E, F]
        np.testing.assert_array_equal(changed[name].sum(-1), round(0.4 * 40))
    assert np.array_equal(changed["gate"], changed["down"]) == shared_index
    assert np.array_equal(changed["gate"], changed["up"]) == shared_index
    one, two = changed["gate"][:, 0], changed["gate"][:, 1]
    assert 0.02 < (one & two).mean() < 0.32  # r² = 0.16 of independent sets


def test_redrawn_values_follow_the_statistics_of_what_they_replace():
    c = config(mlp=400)
    p = random_params(c)
    p["blocks"]["dense"]["up"] = p["blocks"]["dense"]["up"] + 3.0
    a, b = (apply(upcycle(c, dataclasses.replace(COPIES, keep=k)), p)["blocks"]["moe"]["expert_up"] for k in (1.0, 0.5))
    old, new = a[a != b], b[a != b]
    assert abs(new.mean() - old.mean()) < 0.01
    assert abs(new.std() / old.std() - 1) < 0.02


def test_moments_follow_the_inverse_scale_and_are_zero_where_redrawn():
    rewrite = upcycle(C, dataclasses.replace(GRANULAR, scale="down", permute=False, keep=0.5))
    m = apply(rewrite, P, moment=1)["blocks"]["moe"]["expert_down"]
    w = apply(rewrite, P)["blocks"]["moe"]["expert_down"]
    zero = np.all(m == 0, axis=-1)
    np.testing.assert_array_equal(zero.sum(-1), 10)
    np.testing.assert_allclose(m[~zero], w[~zero] / 4, rtol=1e-5)


def test_host_and_device_make_the_same_experts():
    import jax

    rewrite = upcycle(C, dataclasses.replace(GRANULAR, keep=0.7))
    host, device = apply(rewrite, P), apply(rewrite, jax.tree.map(jax.numpy.asarray, P))
    for a, b in zip(jax.tree.leaves(host), jax.tree.leaves(device)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"granularity": 3}, "not divided by granularity 3"),
        ({"granularity": 0}, "granularity is 0, it must be at least 1"),
        ({"granularity": 4}, "experts 6 is not a multiple of granularity 4"),
        ({"experts_per_token": 7}, "there are only 6 experts"),
        ({"scale": "sqr"}, "did you mean 'sqrt'"),
        ({"weights": "renormalized"}, "did you mean 'renormalised'"),
        ({"keep": 60}, "keep is 60, a fraction from 0 to 1"),
        ({"shared_mlp": 40}, "mlp 40 less shared_mlp 40"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(options, said):
    with pytest.raises(JaxptError, match=said):
        upcycle(C, Upcycling(**{"experts": 6, "experts_per_token": 3, **options}))
