"""A disk that fills up while rows are packed: one line, nothing left behind, and the same call goes on with room."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.made import source

ROOT = Path(__file__).resolve().parents[2]
PACK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True  # half a file would be found by a later import
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)  # as a full disk, but for the error's name
from jaxpt.errors import JaxptError
from tests.data.made import source
try:
    source(sys.argv[1], 300, 64)
except JaxptError as error:
    print("refused:", error)
"""


def pack(path, most):
    done = subprocess.run(
        [sys.executable, "-c", PACK, str(path), str(most)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("most", [0, 2_000, 9_000])  # the first row, a shard's end, a column or source.json
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, most):
    said = pack(tmp_path / "packed", most)
    assert said.startswith(f"refused: {tmp_path / 'packed'}: writing failed (")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert source(tmp_path / "packed", 300, 64).rows == 300


def test_with_room_it_is_packed(tmp_path):  # the proof above can fail
    assert pack(tmp_path / "packed", 1_000_000) == ""
    assert (tmp_path / "packed/source.json").is_file()
