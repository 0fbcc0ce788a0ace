"""Scores across hosts: two processes with half of the rows each find what one finds."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import InMemory
from tests.models.tiny import VARIANTS
from tests.reshape.proofs import batches, random_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_hosts_find_the_scores_of_one(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    files = [tmp_path / f"{rank}.npz" for rank in range(2)]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.reshape.score_hosts", address, str(rank), str(file)],
            cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank, file in enumerate(files)
    ]  # fmt: skip
    printed = [h.communicate(timeout=600)[0] for h in hosts]
    assert [h.returncode for h in hosts] == [0, 0], printed
    c = VARIANTS["llama"]
    alone = activation_scores(InMemory(c, random_params(c)), batches(c, rows=8), data="made", removal=True)
    for scores in map(Scores.load, files):
        assert scores.meta == alone.meta
        assert scores.values.keys() == alone.values.keys()
        for name, value in alone.values.items():
            np.testing.assert_allclose(scores.get(name), value, rtol=2e-4, atol=1e-6, err_msg=name)
