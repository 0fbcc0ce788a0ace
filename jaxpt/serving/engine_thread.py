"""The one thread that computes: it reads prompts, draws tokens in slots, and hands them out as they come."""

import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from jaxpt.generation import Completion, InferenceEngine
from jaxpt.generation.prefixes import CHUNK
from jaxpt.generation.reading import PromptReader
from jaxpt.generation.shapes import rounded
from jaxpt.serving.jobs import PromptJob
from jaxpt.serving.refusal import Refusal

ENDS = 128  # end ids of a request, at most
BIASES = 300  # entries of its logit_bias, at most
TOP = 20  # the likeliest tokens at a place, at most
FAILURES = 3  # of the engine in a row: then it is not tried again
IDLE = 0.25  # seconds after which an idle thread looks at the clock


@dataclass
class _Lane:
    """Jobs that wait for one another: those for slots, or those that only read their prompts."""

    waiting: deque[PromptJob]
    job: PromptJob | None = None
    reader: PromptReader | None = None
    entered: int = 0


class EngineThread:
    """Runs jobs; all methods but those of the thread itself may be called from any other.

    In each turn at most `CHUNK` tokens of prompts are read in each of two lanes, then every slot that is going gets up
    to eight tokens. So long prompts and prompts that are only judged delay tokens by a bounded time, and the other way
    round. The shapes of all programs depend on the number of slots, their room, and a prompt's own length: an answer is
    that of the request alone, whatever else is asked.
    """

    def __init__(self, engine: InferenceEngine, *, slots: int, max_length: int, waiting: int):
        """Makes empty slots.

        Args:
            engine: the model; nobody else may use it from now on.
            slots: continuations at once.
            max_length: tokens of a prompt and its continuation together.
            waiting: prompts and continuations that may wait, at most.
        """
        self.engine, self.slots, self.max_length, self.waiting = engine, slots, max_length, waiting
        self.top = min(TOP, engine.config.vocab_size)
        self.failed = 0
        self._inbox: queue.SimpleQueue[tuple[str, PromptJob | None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._queued = 0  # continuations (or prompts without any) that have been submitted and not begun
        self._stop_at: float | None = None
        self._lanes = (_Lane(deque()), _Lane(deque()))
        self._going: dict[int, tuple[PromptJob, int]] = {}
        self._numbers = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._fresh()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the thread takes jobs."""
        return self._thread.is_alive() and self._stop_at is None and self.failed < FAILURES

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._stop_at is not None

    @property
    def queued(self) -> int:
        """How many continuations (or prompts without any) have been submitted and not begun."""
        return self._queued

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return self.slots - self._slots.free

    def submit(self, jobs: list[PromptJob]) -> None:
        """Queues jobs, all or none.

        Raises:
            Refusal: too many are waiting, or the server stops.
        """
        count = sum(_size(job) for job in jobs)
        with self._lock:
            if not self.healthy:
                raise refused_at_stop() if self._stop_at is not None else _broken()
            if count > self.waiting:
                raise Refusal(
                    400, f"{count} continuations are asked for at once, the server takes {self.waiting} (--queue)"
                )
            if self._queued + count > self.waiting:
                raise Refusal(
                    429,
                    f"{self._queued} continuations are waiting, the server takes {self.waiting} (--queue); try again",
                    code="queue_full",
                    headers={"retry-after": "1"},
                )
            self._queued += count
            for job in jobs:
                job.submitted = time.monotonic()
                self._inbox.put(("job", job))

    def cancel(self, job: PromptJob) -> None:
        """Ends a job that nobody waits for; its slots are free within a turn."""
        if not job.over:
            self._inbox.put(("cancel", job))

    def stop(self, seconds: float) -> None:
        """Refuses what waits and what comes; what has begun may go on for `seconds`."""
        with self._lock:
            self._stop_at = min(time.monotonic() + seconds, self._stop_at or float("inf"))
        self._inbox.put(("wake", None))

    def join(self, seconds: float) -> bool:
        """Waits for the thread's end after `stop`; returns whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _fresh(self) -> None:
        with self.engine.on_mesh():
            self._slots = self.engine.continuing(
                self.slots, rounded(self.max_length), ends=ENDS, biases=BIASES, top=self.top
            )

    def _run(self) -> None:
        with self.engine.on_mesh():
            while True:
                try:
                    if not self._turn():
                        self._take(block=False)  # what was submitted just before the stop
                        self._fail_all(refused_at_stop())
                        return
                    continue
                except Exception:  # of JAX: memory, a lost device; what is in the slots may be gone
                    self.failed += 1
                    traceback.print_exc(file=sys.stderr)
                    self._fail_all(Refusal(500, "the engine failed; the server's log says how", code="engine_failure"))
                if self.failed >= FAILURES or not self._made_again():
                    self.failed = FAILURES
                    self._take(block=False)
                    self._fail_all(_broken())
                    return

    def _made_again(self) -> bool:
        try:
            self._fresh()
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return False
        return True

    def _turn(self) -> bool:
        """One round; False: the server has stopped and nothing is left to do."""
        self._take(block=not self._going and not any(lane.job or lane.waiting for lane in self._lanes))
        self._look_at_the_clock()
        for lane in self._lanes:
            self._read(lane)
        self._advance()
        return self._stop_at is None or bool(self._going) or any(lane.job for lane in self._lanes)

    def _take(self, block: bool) -> None:
        while True:
            try:
                what, job = self._inbox.get(timeout=IDLE) if block else self._inbox.get_nowait()
            except queue.Empty:
                return
            block = False
            if what == "job" and job is not None:
                self._lanes[not job.needs_slot].waiting.append(job)
            elif what == "cancel" and job is not None:
                self._end(job, Refusal(499, "the client has gone"))

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        late = [job for job in self._jobs() if job.deadline <= now]
        for job in late:
            self._end(job, Refusal(504, "the request took longer than the server allows (--timeout)", code="timeout"))
        if self._stop_at is not None:
            for lane in self._lanes:
                for job in list(lane.waiting):
                    self._end(job, refused_at_stop())
            if self._stop_at <= now:
                self._fail_all(refused_at_stop())

    def _jobs(self) -> Iterator[PromptJob]:
        for lane in self._lanes:
            yield from list(lane.waiting)
            if lane.job is not None:
                yield lane.job
        yield from {id(job): job for job, _ in self._going.values()}.values()

    def _read(self, lane: _Lane) -> None:
        """Reads up to `CHUNK` tokens of the lane's prompts, and lets those that have been read begin."""
        budget = CHUNK
        while budget > 0:
            if lane.job is None:
                if not lane.waiting or (lane.waiting[0].needs_slot and not self._slots.free):
                    return
                lane.job, lane.entered = lane.waiting.popleft(), 0
                lane.reader = self.engine.reader(lane.job.prompt, top=lane.job.prompt_top, most=self.top)
            assert lane.reader is not None
            if not lane.reader.done:
                budget -= lane.reader.step()
            if lane.reader.done:
                if not lane.job.read:
                    job, reader = lane.job, lane.reader
                    job.prompt_logprobs, job.prompt_likeliest = reader.logprobs, reader.top
                    job.read, job.finished = True, not job.requests
                    self._begun(1 if not job.requests else 0)
                    job.notify()
                if not self._enter(lane, lane.job, lane.reader):
                    return

    def _enter(self, lane: _Lane, job: PromptJob, reader: PromptReader) -> bool:
        """Begins the job's continuations; False: some of them wait for a slot."""
        while lane.entered < len(job.requests):
            request, n = job.requests[lane.entered], lane.entered
            if request.max_new_tokens == 1:
                self._show(job, n, self._slots.one_token(request, reader), True)
            elif not self._slots.free:
                return False
            else:
                number = self._numbers = self._numbers + 1
                self._going[number] = job, n
                self._hand_out(self._slots.admit_read(number, request, reader))
            lane.entered += 1
            self._begun(1)
        lane.job = lane.reader = None
        return True

    def _advance(self) -> None:
        if not self._going:
            return
        self._hand_out(self._slots.advance())
        self.failed = 0

    def _hand_out(self, ended: list[tuple[int, Completion]]) -> None:
        for number, completion in ended:
            job, n = self._going.pop(number)
            self._show(job, n, completion, True)
        for number in self._slots.going:
            so_far = self._slots.so_far(number)
            if so_far is not None and so_far.tokens:
                self._show(*self._going[number], so_far, False)

    def _show(self, job: PromptJob, n: int, completion: Completion, ended: bool) -> None:
        if job.first_token is None:
            job.first_token = time.monotonic()
        if job.see(n, completion, ended):
            job.notify()

    def _begun(self, count: int) -> None:
        with self._lock:
            self._queued -= count

    def _end(self, job: PromptJob, refusal: Refusal) -> None:
        """Ends a job wherever it is."""
        if job.over:
            return
        for lane in self._lanes:
            if job in lane.waiting:
                lane.waiting.remove(job)
                self._begun(_size(job))
            elif lane.job is job:
                left = len(job.requests) - lane.entered if job.requests else int(not job.read)
                lane.job = lane.reader = None
                self._begun(left)
        for number in [k for k, (other, _) in self._going.items() if other is job]:
            del self._going[number]
            self._slots.cancel(number)
        job.refusal = refusal
        job.notify()

    def _fail_all(self, refusal: Refusal) -> None:
        for job in {id(job): job for job in self._jobs()}.values():
            if refusal.status >= 500 and refusal.code == "engine_failure":
                for number in [k for k, (other, _) in self._going.items() if other is job]:
                    del self._going[number]  # the slots are made anew
            self._end(job, refusal)


def _size(job: PromptJob) -> int:
    return max(1, len(job.requests))


def refused_at_stop() -> Refusal:
    """What requests are answered while the server stops."""
    return Refusal(503, "the server stops", code="stopping", headers={"retry-after": "5"})


def _broken() -> Refusal:
    return Refusal(503, "the engine has failed and is not tried again; start the server again", code="engine_failure")
