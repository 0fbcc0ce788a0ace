"""What the reshape configs made at b398682 they make today: its own config files as they were, and those of now."""

import json
import os
import tarfile
from pathlib import Path

import jax
import pytest

from jaxpt.bundles import open_bundle
from jaxpt.cli import main

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests/fixtures/b398682.tar.gz"


def made_then():
    with tarfile.open(ARCHIVE) as archive:
        return json.load(archive.extractfile("reshaped.json"))


THEN = made_then()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the commit wrote."""
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", autouse=True)
def optimised():
    """Drawn values are compiled as they were then: with fewer optimisations their last bit differs."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
    jax.clear_caches()


def reshape(written, to, configs, variant, flags):
    name, _, argument = variant.partition("@")
    config = f"--config={configs / f'{name}.py'}{argument and ':' + argument}"
    assert main(["reshape", config, f"--from={written / 'bundle'}", f"--to={to}", *flags]) == 0
    return open_bundle(to).digests


@pytest.mark.parametrize("variant", THEN["flags"])
@pytest.mark.parametrize("configs", ["then", "now"])
def test_a_config_makes_the_bits_that_it_made_then(written, tmp_path, variant, configs):
    folder = written / "configs/reshape" if configs == "then" else ROOT / "configs/reshape"
    assert reshape(written, tmp_path / "out", folder, variant, THEN["flags"][variant]) == THEN["digests"][variant]


def test_another_seed_makes_other_bits(written, tmp_path):  # the proof above can fail
    digests = reshape(written, tmp_path / "out", ROOT / "configs/reshape", "upcycle", ["--config.seed=1"])
    assert digests != THEN["digests"]["upcycle"]
