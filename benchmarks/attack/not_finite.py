"""Values that are not finite, between logged steps and where no loss shows them: good checkpoints must outlive them."""

import shutil
from typing import Any

from benchmarks.attack.children import Server
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import SAVE

STEPS = "--config.stages[0].duration=30 steps"
WAYS = {
    "learning rate": ["--config.optimizer.learning_rate={}e30", "--config.optimizer.weight_decay=0.0"],
    "learning rate, later": [
        "--config.stages[0].schedule={{'name': 'segments', 'segments': ({{'shape': 'constant', 'duration': '9 steps', "
        "'end': 0.0}}, {{'shape': 'linear', 'duration': 'rest', 'end': {}e36}})}}",
    ],
    "second moment": ["--config.stages[0].objective.z_loss={}e26", "--config.optimizer.clip_norm=None"],
    "gradients": ["--config.stages[0].objective.z_loss={}e37", "--config.optimizer.clip_norm=None"],
}  # fmt: skip


def attack(room: Room) -> list[Trial]:
    """A run that explodes, from its beginning or after good checkpoints; with metrics every step or hardly any."""
    todo = []
    for name, overrides in WAYS.items():
        for i in range(max(room.trials // 4, 2)):
            size, every = room.rng.uniform(1, 9), (50, 1, 7)[i % 3]
            given = [o.format(f"{size:.3f}") for o in overrides]
            todo.append((name, [*given, f"--config.metrics.every={every}"], bool(i % 2)))
    trials = room.children.each(lambda server, item: one(room, server, *item), todo)
    copy = room.copy(room.victims.stopped)
    answer = room.children.call(room.victims.train(copy), ["state", str(copy)]).answer
    return [*trials, *(back(room, answer) for _ in range(2))]


def back(room: Room, answer: Any) -> Trial:
    """Goes back to the checkpoint before the newest: the same end, and the newest is still there under some name."""
    copy, folder = room.copy(room.victims.stopped), f"checkpoints/*{2 * SAVE}*"
    outcome = room.children.call(room.victims.train(copy, f"--from_step={SAVE}"), ["state", str(copy)])
    verdict = failed(outcome) or ("noticed" if outcome.code else "harmless")
    if outcome.code == 0 and (outcome.answer != answer or len(list(copy.glob(folder))) < 2):
        verdict = "silent"
    drop(copy.parent)
    return Trial("going back: --from_step", f"--from_step={SAVE}", verdict, outcome.reason)


def one(room: Room, server: Server, name: str, overrides: list[str], fresh: bool) -> Trial:
    """One trial: every kept checkpoint must be finite, and the run go on from one with a sane config."""
    copy = room.copy(room.victims.stopped)
    if fresh:
        shutil.rmtree(copy)
    save = ["--config.checkpoint.every=2 steps", "--config.checkpoint.keep=2", STEPS]
    first = server.call(room.victims.train(copy, *save, *overrides))
    state = server.call(["finite", str(copy)])
    verdict, reason = failed(first), first.reason
    spoiled = [step for step, good in (state.answer or {}).items() if not good]
    if verdict is None and (spoiled or not (fresh or state.answer)):
        verdict = "silent"
        reason = f"kept: {state.answer}, exit {first.code}: {first.reason}"
    if verdict is None and state.answer:
        last = server.call(room.victims.train(copy, *save), ["state", str(copy)])
        verdict = failed(last) or ("wrong refusal" if last.code else None)
        reason = last.reason if verdict else reason
    drop(copy.parent)
    what: Any = ("from the start " if fresh else "after good checkpoints ") + " ".join(overrides)
    return Trial(f"not finite: {name}", what, verdict or ("noticed" if first.code else "harmless"), reason)
