"""One server for each file of tests."""

import pytest


@pytest.fixture(scope="module")
def live(shared, tmp_path_factory):
    """A server of stories260K with a chat template."""
    from tests.serving.live import live_model  # needs the extra, without which the files are skipped

    yield from live_model(shared, tmp_path_factory)
