"""One server for each file of tests."""

import pytest

from tests.serving.live import live_model


@pytest.fixture(scope="module")
def live(shared, tmp_path_factory):
    """A server of stories260K with a chat template."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    yield from live_model(shared, tmp_path_factory)
