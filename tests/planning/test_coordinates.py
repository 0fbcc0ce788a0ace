"""The coordinate check: what it measures, that µP passes it, and that standard parameterisation does not."""

import jax
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.forward import forward
from jaxpt.models.mup import BaseShape, MupConfig
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.planning.coordinates import (
    LOGITS,
    Coordinates,
    activations,
    check_coordinates,
    control_failures,
    failures,
    wider_is_worse,
)
from jaxpt.planning.sweep import Sweep, sweep
from jaxpt.planning.widths import at_width

V, B, S = 64, 4, 16
MODEL = ModelConfig(V, 32, 4, 2, 8, 64, uniform_layers(2))
MUP = MupConfig(BaseShape(embed=32, heads=4, mlp=64, layers=2))
rng = np.random.default_rng(0)
TOKENS = rng.integers(0, V, (B, S + 1)).astype(np.int32)
BATCH = {
    "tokens": TOKENS[:, :-1],
    "targets": TOKENS[:, 1:],
    "segment_ids": np.ones((B, S), np.int32),
    "positions": np.broadcast_to(np.arange(S, dtype=np.int32), (B, S)),
    "loss_weights": np.ones((B, S), np.float32),
}


def test_what_is_measured_is_the_models_forward_pass():
    wide = at_width(MODEL, MUP, 64, 2, "mup")
    params = wide.first(0)
    sites = jax.jit(lambda p: activations(wide.model, p, BATCH, Compute()))(params)
    logits = forward(wide.model, params, BATCH["tokens"], BATCH["segment_ids"], BATCH["positions"])
    np.testing.assert_allclose(sites[LOGITS], logits, rtol=1e-4, atol=1e-5)
    stream = sites["embedding"][0] + sites["attention branch"].sum(0) + sites["ffn branch"].sum(0)
    np.testing.assert_allclose(sites["stream"][-1], stream, rtol=1e-4, atol=1e-5)
    scores = sites["attention logits"]
    assert scores.shape == (2, B, 8, S, S)
    assert not np.triu(np.asarray(scores), 1).any()


@pytest.mark.slow
def test_mup_keeps_sizes_over_width_and_standard_parameterisation_does_not():
    found = {}
    for kind in ("mup", "standard"):
        models = [at_width(MODEL, MUP, w, 2, kind) for w in (64, 128, 256, 512)]
        found[kind] = check_coordinates(models, AdamW(weight_decay=0.0, eps=1e-12), BATCH, 5, range(3), 0.004)
    assert failures(found["mup"]) + wider_is_worse(found["mup"]) == []
    assert control_failures(found["standard"]) == []
    assert failures(found["standard"]) != []  # the negative control
    assert control_failures(found["mup"]) != []


def measured(logits=0.0, hidden=0.0, moved=1.0):
    """What the check would see where sizes go with powers of the width."""
    widths = np.array([32, 64, 128])
    by = lambda power: np.broadcast_to((widths**power)[:, None, None], (3, 2, 6)).astype(float)  # noqa: E731
    size = {"stream": by(hidden), "logits": by(logits), "attention logits": by(0.0)}
    change = {site: moved * a for site, a in size.items()}
    return Coordinates(tuple(widths), size, change, np.ones((3, 2, 6)))


def test_the_verdict_names_what_grows_and_what_stands_still():
    assert failures(measured()) == []
    assert any("mean |x| of stream goes with width^0.20" in line for line in failures(measured(hidden=0.2)))
    assert any("step 4: mean |x| of logits goes with width^0.30" in line for line in failures(measured(logits=0.3)))
    assert failures(measured(moved=1e-4)) == ["step 5: stream has not moved (rms 1.0e-04)"]
    assert control_failures(measured(logits=0.5, hidden=0.3)) == []
    assert len(control_failures(measured())) == 2
    worse = measured()._replace(loss=np.arange(3.0)[:, None, None] + np.zeros((3, 2, 6)))
    assert wider_is_worse(worse) == [
        "width 64 ends at 1.0000, width 32 at 0.0000",
        "width 128 ends at 2.0000, width 64 at 1.0000",
    ]


def test_the_best_rate_is_a_parabolas_and_an_edge_is_said():
    rates = tuple(2.0**k for k in range(-10, -5))
    at = lambda place: [[(k - place) ** 2 + 1] for k in range(-10, -5)]  # noqa: E731
    found = Sweep((32, 64, 128), rates, np.array([at(-8.25), at(-7.5), at(-10)]))
    best = found.best()
    assert [b.log2 for b in best] == pytest.approx([-8.25, -7.5, -10])
    assert [b.loss for b in best] == pytest.approx([1, 1, 1])
    assert [b.at_edge for b in best] == [False, False, True]
    assert found.spread == pytest.approx(2.5)
    assert found.transferred() == pytest.approx([0, 0.0, 4.0])


def test_a_run_that_diverges_counts_as_infinite():
    wide = at_width(MODEL, MUP, 32, 1, "mup")
    found = sweep([wide], AdamW(), lambda t: BATCH, 4, [1e-3, float("inf")], [0])
    assert np.isfinite(found.loss[0, 0, 0])
    assert found.loss[0, 1, 0] == np.inf


def test_widths_are_multiples_of_the_base():
    wide = at_width(MODEL, MUP, 128, 1, "mup")
    assert (wide.model.embed, wide.model.heads, wide.model.kv_heads, wide.model.mlp) == (128, 16, 8, 256)
    assert (wide.model.logit_scale, wide.model.residual_scale) == (1 / 4, 1.0)
    assert at_width(MODEL, MUP, 128, 1, "standard").model.logit_scale == 1
    with pytest.raises(JaxptError, match="--widths: 40 is not a width of the base shape's kind"):
        at_width(MODEL, MUP, 40, 1, "mup")
    with pytest.raises(JaxptError, match="--layers=3: the model has 2"):
        at_width(MODEL, MUP, 64, 3, "mup")
