"""What is compiled for a TPU is compiled as users compile it."""

import os

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def optimised():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
