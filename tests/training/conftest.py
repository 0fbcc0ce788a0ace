"""No process outlives its test."""

import pytest

from tests.training.processes import kill_all


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    yield
    kill_all()
