"""Flags of XLA: the table, what overrides it, and that this XLA knows every one of them."""

import os
import subprocess
import sys

import pytest

from jaxpt.errors import JaxptError
from jaxpt.sharding.xla_flags import DETERMINISTIC, FLAGS, chosen_flags, expected_backend


def test_the_config_overrides_the_table_and_the_environment_both():
    name = FLAGS["gpu"][0].name
    assert f"--{name}=true" in chosen_flags("gpu")
    assert f"--{name}=false" in chosen_flags("gpu", {name: "false"})
    flags = chosen_flags("gpu", {name: "false"}, environment=f"--{name}=true --xla_other=1")
    assert [f for f in flags if name in f] == [f"--{name}=true"]
    assert "--xla_other=1" in flags
    assert chosen_flags("cpu") == ()


def test_deterministic_flags_are_added_on_request():
    wanted = {f"--{flag.name}={flag.value}" for flag in DETERMINISTIC["gpu"]}
    assert wanted
    assert wanted <= set(chosen_flags("gpu", deterministic=True))
    assert not wanted & set(chosen_flags("gpu"))


def test_what_is_no_flag_is_named():
    with pytest.raises(JaxptError, match=r"runtime\.xla_flags\.--xla_gpu_autotune_level: flags of XLA begin with xla_"):
        chosen_flags("gpu", {"--xla_gpu_autotune_level": "0"})


def test_the_backend_is_the_one_asked_for():
    assert expected_backend({"JAX_PLATFORMS": "cuda,cpu"}) == "gpu"
    assert expected_backend({"JAX_PLATFORMS": "tpu"}) == "tpu"


@pytest.mark.newest
def test_this_xla_knows_every_flag_and_would_end_at_an_unknown_one():
    def starts(flags):
        environment = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    assert starts(chosen_flags("gpu", deterministic=True))
    assert not starts(["--xla_gpu_no_such_flag=true"])
