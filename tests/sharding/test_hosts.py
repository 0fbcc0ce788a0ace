"""Hosts that cannot join are message why in one line."""

import jax
import pytest

from jaxpt.errors import JaxptError
from jaxpt.sharding import join


def test_one_host_joins_nothing():
    join(None)
    assert jax.process_count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0), "need --coordinator=HOST:PORT"),
        (("auto", 2, 0), "leave out --processes and --process_id"),
        (("host", 2, 0), "--coordinator=host is not of the form HOST:PORT"),
        (("host:1234",), "needs --processes=N and --process_id=0…N-1, got None and None"),
        (("host:1234", 2, 2), "got 2 and 2"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises(JaxptError, match=message):
        join(*arguments)


def test_auto_without_a_cluster_says_what_it_looked_for(monkeypatch):
    def nothing(*arguments, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nothing)
    with pytest.raises(JaxptError, match="neither a Cloud TPU pod, SLURM, Open MPI nor Kubernetes"):
        join("auto")
