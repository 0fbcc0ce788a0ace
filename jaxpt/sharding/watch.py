"""Signs of life between the processes of one run, kept by JAX's coordinator: who is lost, since when."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax

DONE, FAILED = "done", "failed"  # the last sign of a process that ended
ROOM = "jaxpt"  # of the keys


@dataclass(frozen=True)
class MissingProcess:
    """A process that is lost: its number, its last sign of life (seconds since the epoch), whether by an error."""

    process: int
    since: float
    failed: bool = False


class Signs:
    """When each of some processes last showed a new sign of life, by the clock of the one that looks."""

    def __init__(self, processes: list[int], limit: float, now: float):
        """A process is lost once its sign has been the same for `limit` seconds; `now` in seconds of any clock."""
        self._limit, self._looked = limit, now
        self._seen: dict[int, tuple[str, float]] = dict.fromkeys(processes, ("", now))

    def note(self, signs: Mapping[int, str], now: float) -> None:
        """Takes in the signs as they are now; missing ones are as before."""
        if now - self._looked > self._limit / 2:  # this process itself was stopped: the others had nobody to notice
            self._seen = {process: (sign, now) for process, (sign, _) in self._seen.items()}
        self._looked = now
        for process in self._seen.keys() & signs.keys():
            if signs[process] != self._seen[process][0]:
                self._seen[process] = signs[process], now

    def lost(self) -> tuple[int, float, bool] | None:
        """The process that has been silent for longest, the seconds since its last sign, whether it failed; or None."""
        silent = [(self._looked - at, i, sign) for i, (sign, at) in self._seen.items() if sign != DONE]
        seconds, process, sign = max(silent, default=(0.0, 0, ""))
        return (process, seconds, sign == FAILED) if seconds > self._limit else None


def period(limit: float) -> float:
    """Seconds between two signs of life, where a process counts as lost after `limit` seconds."""
    return min(limit / 10, 5.0)


class Watch:
    """A thread that gives signs of life and looks for those of the others: process 0 for all, all for process 0's.

    What process 0 finds, all read. `report` gets each look's begin and end, so that whoever watches over this process
    notices when process 0, which keeps the signs, does not answer.
    """

    def __init__(self, limit: float, report: Callable[..., None]):
        """A process counts as lost after `limit` seconds without a sign of life."""
        self._limit, self._report = limit, report
        self._client: Any = None
        self._known, self._stop = threading.Event(), threading.Event()

    def begin(self) -> None:
        """Begins, once `join` has joined the processes."""
        from jax._src import distributed  # no public way to the key-value store of the coordinator

        state = distributed.global_state
        self._client = state.client
        self._me, self._count = state.process_id, state.num_processes
        self._report(process=self._me, processes=self._count, coordinator=state.coordinator_address)
        threading.Thread(target=self._run, daemon=True, name="signs of life").start()

    def is_lost(self, within: float) -> bool:
        """Whether a process is known to be lost, or will be known within so many seconds."""
        return self._known.wait(within)

    def end(self, code: int) -> None:
        """Gives the last sign: this process's work ended with that exit code."""
        self._stop.set()
        self._report(code=code)
        if self._client is None:
            return
        failed = code not in (0, os.EX_TEMPFAIL)
        try:
            self._set(FAILED if failed else DONE, None)
        except jax.errors.JaxRuntimeError:
            return  # process 0 is gone: there is nobody to read it

    def _run(self) -> None:
        others = list(range(1, self._count)) if self._me == 0 else [0]
        signs, beat = Signs(others, self._limit, time.monotonic()), 0
        while not self._stop.wait(period(self._limit)):
            beat += 1
            self._report(asking=True)
            try:
                loss = self._look(signs, str(beat))
            except jax.errors.JaxRuntimeError:
                continue  # no answer: JAX ends this process, or whoever watches over it does
            self._report(asking=False)
            if loss and not self._known.is_set():
                self._report(loss=asdict(loss))
                self._known.set()

    def _look(self, signs: Signs, beat: str) -> MissingProcess | None:
        if self._me:
            self._set(beat, None)
            status = self._status()
            signs.note({0: status["beat"]}, time.monotonic())
            if status["loss"]:
                return MissingProcess(**status["loss"])
        else:
            given = self._client.key_value_dir_get(f"{ROOM}/alive/")
            signs.note({int(key.rpartition("/")[2]): sign for key, sign in given}, time.monotonic())
        lost = signs.lost()
        loss = MissingProcess(lost[0], time.time() - lost[1], lost[2]) if lost else None
        if self._me == 0:
            self._set(beat, loss)
        return loss

    def _status(self) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads(self._client.key_value_try_get(f"{ROOM}/status"))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return {"beat": "", "loss": None}  # process 0 has not begun
        return status

    def _set(self, beat: str, loss: MissingProcess | None) -> None:
        key, value = f"{ROOM}/alive/{self._me}", beat
        if self._me == 0:
            key, value = f"{ROOM}/status", json.dumps({"beat": beat, "loss": asdict(loss) if loss else None})
        self._client.key_value_set(key, value, allow_overwrite=True)
