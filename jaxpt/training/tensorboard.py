"""Event files of TensorBoard, which show again what metrics.jsonl holds."""

import time
from collections.abc import Mapping
from pathlib import Path

from jaxpt.files.partial import writes

FLUSH_SECONDS = 10.0


class Board:
    """Writes scalars to a new event file of a folder, in the thread that calls.

    `tensorboardX.SummaryWriter` writes from a thread of its own: a full disk ends that thread with a traceback, and the
    run then waits for its queue for good.
    """

    def __init__(self, folder: Path, resumed_at: int):
        """Begins a file; of what earlier files hold, steps after `resumed_at` are no longer shown.

        Raises:
            JaxptError: the disk is full, or the folder cannot be written.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = folder
        with writes(folder):
            folder.mkdir(parents=True, exist_ok=True)
            earlier = any(folder.glob("events.out.tfevents.*"))
            self._writer = EventsWriter(str(folder / "events"))
            if earlier:
                begin = SessionLog(status=SessionLog.START)
                self._writer.write_event(Event(wall_time=time.time(), step=resumed_at + 1, session_log=begin))
            self._flush()

    def add(self, step: int, values: Mapping[str, int | float]) -> None:
        """Adds the values of a step.

        Raises:
            JaxptError: the disk is full, or the file cannot be written.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with writes(self._folder):
            for name, value in values.items():
                event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                self._writer.write_event(event)
            if time.monotonic() > self._flushed + FLUSH_SECONDS:
                self._flush()

    def close(self) -> None:
        """Finishes the file.

        Raises:
            JaxptError: the disk is full, or the file cannot be written.
        """
        with writes(self._folder):
            self._writer.close()

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()
