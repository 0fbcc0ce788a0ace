"""The digest of one slice, taken in pieces on the host, is the digest of the whole tree."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.bundles import digest
from jaxpt.bundles.digest import PIECE, slice_digest


@pytest.mark.parametrize("shape", [(3, 5, 7), (11,), (2, PIECE // 2 + 3)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_pieces_add_up_to_the_digest_of_the_tree(shape, dtype):
    value = np.random.default_rng(0).normal(size=shape).astype(dtype)
    assert slice_digest(value) == digest({"leaf": value})["leaf"][0]
    changed = value.copy()
    changed.reshape(-1)[-1] += 1
    assert slice_digest(changed) != slice_digest(value)
