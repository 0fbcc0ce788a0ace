"""Event files show each step once, also after a restart, and a full disk is one line."""

import struct

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxpt.errors import JaxptError
from jaxpt.training.tensorboard import Board


def shown(folder):
    """(step, value) of "train/loss" as TensorBoard shows them: a START drops what its step and later ones had."""
    out = []
    for file in sorted(folder.iterdir(), key=lambda f: (f.stat().st_mtime_ns, f.name)):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.session_log.status == SessionLog.START:
                out = [entry for entry in out if entry[0] < event.step]
            out += [(event.step, v.simple_value) for v in event.summary.value if v.tag == "train/loss"]
    return out


def begin(folder, monkeypatch, second, resumed_at):
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 1.7e9 + second)  # it names the file
    return Board(folder, resumed_at)


@pytest.mark.parametrize("resumed_at", [0, 2])
def test_steps_that_are_taken_again_are_shown_once(tmp_path, monkeypatch, resumed_at):
    board = begin(tmp_path, monkeypatch, 0, 0)
    for step in (1, 2, 3):
        board.add(step, {"train/loss": step})
    board.close()
    board = begin(tmp_path, monkeypatch, 1, resumed_at)
    for step in range(resumed_at + 1, 5):
        board.add(step, {"train/loss": step + 0.5})
    board.close()
    assert [step for step, _ in shown(tmp_path)] == [1, 2, 3, 4]
    assert [value % 1 for _, value in shown(tmp_path)] == [0.0] * resumed_at + [0.5] * (4 - resumed_at)


def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path, monkeypatch):
    board = Board(tmp_path, 0)

    def full(self, event):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventsWriter, "write_event", full)
    with pytest.raises(JaxptError, match=rf"^{tmp_path}: the disk is full \(.* MiB free\); free space"):
        board.add(1, {"train/loss": 1.0})
