"""What is compiled for a TPU is compiled as users compile it."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def optimised():
    before = jax.config.jax_disable_most_optimizations
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
