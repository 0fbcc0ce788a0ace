"""What a policy of recomputation saves, counted in the compiled program."""

import functools

import jax
import jax.numpy as jnp

from jaxpt.kernels.attention import attention
from jaxpt.models.compute import REMAT_POLICIES


def loops(remat):
    """Loops in the program of value and gradient of attention in blocks: one forward, one backward, if no more."""
    attend = functools.partial(attention, scale=0.3, implementation="blocked")

    def loss(q, k, v, ids):
        return jnp.sum(jax.checkpoint(attend, policy=REMAT_POLICIES[remat])(jnp.sin(q), k, v, segment_ids=ids))

    shapes = [jax.ShapeDtypeStruct((1, 256, heads, 8), jnp.float32) for heads in (2, 1, 1)]
    shapes.append(jax.ShapeDtypeStruct((1, 256), jnp.int32))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()
    return compiled.as_text().count(" while(")


def test_the_policy_kernels_does_not_compute_attention_in_blocks_again():
    assert loops("full") == 3
    assert loops("kernels") == 2
