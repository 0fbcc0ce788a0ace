"""Two processes at once: writers of one folder, and readers beside a writer that saves and prunes all the time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.attack.jobs import JOBS, Job
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop

LONG = ("--config.stages[0].duration=40 steps",)
FAST = ("--config.stages[0].duration=150 steps", "--config.checkpoint.every=1 steps", "--config.checkpoint.keep=1",
        "--config.sources.a.repeat=100", "--config.sources.b.repeat=100")  # fmt: skip


def attack(room: Room) -> list[Trial]:
    """Pairs of writers, then readers under a writer."""
    train = Job("train", lambda v, f: v.train(f / "run", *LONG), JOBS["train"].answer)
    trials = []
    for job in (train, JOBS["pipeline"], JOBS["pack"], JOBS["tokenize"], JOBS["cache"], JOBS["save"]):
        answer, seconds = job.undisturbed(room.victims, room.children, room.place())
        for _ in range(max(room.trials // 3, 2)):
            trials.append(pair(room, job, room.rng.uniform(0, 0.7) * seconds, answer))
    return trials + readers(room)


def pair(room: Room, job: Job, delay: float, answer: Any) -> Trial:
    """Starts a job twice, the second after `delay` seconds: one of them does it, the other is refused or waits."""
    place = room.place()
    a, b = room.children.servers[:2]
    first = a.start([job.call(room.victims, place)])
    first.ended(delay)
    second = b.start([job.call(room.victims, place)])
    outcomes = [first.wait(), second.wait()]
    verdict = next((bad for o in outcomes if (bad := failed(o))), None)
    reason = " | ".join(f"exit {o.code}: {o.reason}" for o in outcomes)
    if verdict is None and all(o.code for o in outcomes):
        verdict = "wrong refusal"  # the one that came first must go on
    if verdict is None:
        now = a.call(job.answer(place))
        right = now.code == 0 and now.answer == answer
        verdict = "silent" if not right else "noticed" if any(o.code for o in outcomes) else "harmless"
    drop(place)
    return Trial(f"two at once: {job.name}", f"{job.name} twice, {delay:.2f} s apart", verdict, reason)


def readers(room: Room) -> list[Trial]:
    """Reads a run that keeps one checkpoint and writes one every step."""
    place, v = room.place(), room.victims
    run = place / "run"
    ways: dict[str, Callable[[int], list[Any]]] = {
        "load": lambda i: ["load", str(run)],
        "inspect": lambda i: ["command", "jaxpt", "inspect", str(run)],
        "report": lambda i: ["command", "jaxpt", "report", f"--workdir={run}"],
        "export": lambda i: ["command", "jaxpt", "export", f"--from={run}", f"--to={place / f'hf{i}'}"],
    }
    writer, reader = room.children.servers[:2]
    trials: list[Trial] = []
    i = 0
    with ThreadPoolExecutor(1) as pool:
        while len(trials) < 2 * room.trials:
            drop(run)
            running = writer.start([v.train(run, *FAST)])
            end = pool.submit(running.wait, 120)
            while not end.done() and len(trials) < 2 * room.trials:
                if not written(run):
                    continue
                name = list(ways)[i % len(ways)]
                outcome = reader.call(ways[name](i))
                i += 1
                verdict = failed(outcome) or ("wrong refusal" if outcome.code else "harmless")
                trials.append(Trial(f"reader beside a writer: {name}", name, verdict, outcome.reason))
            running.signal(9)
            outcome = end.result()
            if bad := failed(outcome, stopped=True):
                trials.append(Trial("reader beside a writer: the writer", "train", bad, outcome.reason))
    drop(place)
    return trials


def written(run: Path) -> bool:
    """Whether the run has a checkpoint by now."""
    return any(m.parent.name.isdigit() for m in (run / "checkpoints").glob("*/_CHECKPOINT_METADATA"))
