"""AdamW whose moments are kept in bfloat16: half the bytes, updates computed in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.models.specs import ParamSpec
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW

SPECS = {"w": ParamSpec((8, 16), ("embed", "mlp"), decay=True)}


def made(dtype):
    options = AdamW(moments_dtype=dtype, clip_norm=None, weight_decay=0.0)
    optimizer = make_optimizer(options, SPECS)
    params = {"w": jax.random.normal(jax.random.key(0), (8, 16))}
    return optimizer, params, optimizer.init(params)


def test_moments_take_half_the_bytes_and_are_bfloat16():
    whole, half = (made(dtype)[0].state_bytes for dtype in ("float32", "bfloat16"))
    _, _, state = made("bfloat16")
    assert {state[name]["w"].dtype for name in ("mu", "nu")} == {jnp.dtype(jnp.bfloat16)}
    assert half < 0.51 * whole


def test_the_first_update_has_the_bits_of_float32_and_later_ones_differ_by_rounding_alone():
    runs = {}
    for dtype in ("float32", "bfloat16"):
        optimizer, params, state = made(dtype)
        updates = []
        for i in range(5):
            grads = {"w": jax.random.normal(jax.random.key(i + 1), (8, 16))}
            update, state = optimizer.update(grads, state, params)
            updates.append(np.asarray(update["w"]))
        runs[dtype] = updates
    np.testing.assert_array_equal(runs["bfloat16"][0], runs["float32"][0])
    assert not np.array_equal(runs["bfloat16"][4], runs["float32"][4])  # the moments are rounded indeed
    np.testing.assert_allclose(runs["bfloat16"][4], runs["float32"][4], rtol=0.03, atol=0.03)


def test_a_mean_that_would_stand_still_is_refused():
    with pytest.raises(JaxptError, match=r"optimizer\.beta2 is 0\.999: in bfloat16 the mean would stand still"):
        AdamW(beta2=0.999, moments_dtype="bfloat16").check("config.optimizer")
    AdamW(beta2=0.999).check("config.optimizer")
