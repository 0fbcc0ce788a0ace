"""Where compiled programs are kept."""

from pathlib import Path

import pytest

from jaxpt.training.config import RuntimeConfig
from jaxpt.training.runtime import compile_cache


class Config:
    """What `compile_cache` reads of a run's config."""

    def __init__(self, asked=None, cache=None):
        self.runtime, self.cache = RuntimeConfig(compile_cache=asked), cache


@pytest.mark.parametrize(
    ("config", "variable", "folder"),
    [
        (Config(), None, Path.home() / ".cache" / "jaxpt" / "compiled"),
        (Config(cache="/data/packed"), None, Path("/data/packed/compiled")),
        (Config(cache="/data/packed"), "/fast", Path("/fast")),
        (Config("/mine"), "/fast", Path("/mine")),
        (Config("off"), "/fast", None),
    ],
)
def test_the_config_names_the_folder_else_the_variable_else_the_users_cache(config, variable, folder, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if variable:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", variable)
    assert compile_cache(config) == folder
