"""SIGTERM, SIGINT and SIGKILL at random moments of every job; then the same command again."""

import signal
from typing import Any

from benchmarks.attack.children import Server
from benchmarks.attack.jobs import JOBS, Job
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMES = 3  # how often one trial is stopped before it may end


def attack(room: Room) -> list[Trial]:
    """Stops each job a few times at random moments, lets it finish, compares with the job left alone."""
    todo = []
    for job in JOBS.values():
        answer, seconds = job.undisturbed(room.victims, room.children, room.place())
        for i in range(max(room.trials // 2, 3)):
            moments = [room.rng.uniform(0, seconds) for _ in range(TIMES)]
            todo.append((job, SIGNALS[i % 3], moments, answer))
    return room.children.each(lambda server, item: stopped(room, server, *item), todo)


def stopped(room: Room, server: Server, job: Job, number: Any, moments: list[float], answer: Any) -> Trial:
    """One trial: stopped at each of the moments, then left alone."""
    place = room.place()
    kind, what = f"{number.name}, then again", f"{job.name}, after {', '.join(f'{m:.2f} s' for m in moments)}"
    verdict, reason = None, ""
    for moment in moments:
        running = server.start([job.call(room.victims, place)])
        if not running.ended(moment):
            running.signal(number)
        outcome = running.wait()
        verdict, reason = failed(outcome, stopped=True), outcome.reason
        if verdict or outcome.code == 0:
            break
    last = server.call(job.call(room.victims, place)) if verdict is None and outcome.code else outcome
    verdict = verdict or failed(last)
    if verdict is None:
        now, reason = server.call(job.answer(place)), last.reason
        if now.code or now.answer != answer:
            verdict = "wrong refusal" if last.code else "silent"
            reason = last.reason if last.code else f"another result: {now.reason}"
    drop(place)
    return Trial(kind, what, verdict or "harmless", reason)
