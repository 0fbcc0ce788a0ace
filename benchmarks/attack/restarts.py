"""Configs changed at a restart: no row is taken more often than allowed, and tokens are counted as trained."""

import json
from collections import Counter
from pathlib import Path

from benchmarks.attack.children import Server
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import CONFIG, LENGTH, write_text

STAGE = "--config.stages[0]."
BIG = [f"{STAGE}duration=60 steps", "--config.checkpoint.every=5 steps"]
CHANGES = {
    "order_seed": ["--config.sources.a.order_seed=<n>", *BIG],
    "leave_out_seen": ["--config.leave_out_seen=False", *BIG],
    "batch size, duration in tokens": [f"{STAGE}duration={60 * 4 * LENGTH} tokens", f"{STAGE}batch_size=<batch>",
                                       "--config.checkpoint.every=5 steps"],
    "batch size, duration in steps": [f"{STAGE}batch_size=<batch>", *BIG],
    "a shorter stage": [f"{STAGE}duration=<n> steps", "--config.checkpoint.every=5 steps"],
    "mixture": [f"{STAGE}mixture={{'a': 0.<n>, 'b': 0.5}}", *BIG],
    "a source more": ["--config=<folder>/source.py:<victims>", *BIG],
    "a source less": [f"{STAGE}mixture={{'a': 1.0}}", *BIG],
    "a stage more": ["--config=<folder>/stage.py:<victims>", f"{STAGE}duration=<n> steps",
                     "--config.checkpoint.every=5 steps"],
}  # fmt: skip
MORE = {  # what is done to the first config, in files of their own
    "source.py": """
    config["sources"]["c"] = dict(path={other!r})
    config["stages"][0]["mixture"] = dict(a=0.4, b=0.3, c=0.3)
""",
    "stage.py": """
    config["stages"].append(dict(config["stages"][0], batch_size=8, duration="10 steps", mixture=dict(a=0.2, b=0.8)))
""",
}


def attack(room: Room) -> list[Trial]:
    """Stops a run somewhere, changes its config, goes on; half of the runs start from another run."""
    other = room.place() / "c"
    v = room.victims
    text = v.folder / "more"
    if not text.exists():
        write_text(text, 99)
    pack = ["command", "jaxpt-data", "pack", f"--input={text}/*.jsonl*", f"--output={other}",
            f"--sequence_length={LENGTH}", f"--tokenizer={v.folder / 'tokenizer.model'}"]  # fmt: skip
    again = [*pack[:3], f"--input={v.text}/a.jsonl*", f"--output={room.folder / 'again'}", *pack[5:], "--packer=concat"]
    for call in (pack, again):
        if (outcome := room.children.call(call)).code:
            raise SystemExit(f"a source could not be packed: {outcome.reason}")
    first = CONFIG.replace("def get_config", "def first_config")
    for name, change in MORE.items():
        lines = f"def get_config(folder):\n    config = first_config(folder)\n{change.format(other=str(other))}"
        (room.folder / name).write_text(f"{first}\n{lines}    return config\n")
    todo = []
    for name, overrides in CHANGES.items():
        for i in range(max(room.trials // 3, 2)):
            n = room.rng.randint(1, 9) if name in ("order_seed", "mixture") else room.rng.randint(5, 40)
            facts = {"n": n, "batch": room.rng.choice([1, 2, 3, 8, 16]), "folder": room.folder, "victims": v.folder}
            given = overrides
            for key, value in facts.items():
                given = [o.replace(f"<{key}>", str(value)) for o in given]
            todo.append((name, given, room.rng.randrange(6, 40), bool(i % 2)))
    return room.children.each(lambda server, item: one(room, server, *item), todo)


def one(room: Room, server: Server, name: str, overrides: list[str], stop: int, after: bool) -> Trial:
    """One trial: `stop` steps under the first config, then the changed one; counted by what the loop was given."""
    place, v = room.place(), room.victims
    logs = [place / "earlier.log", place / "run.log"]
    start = []
    if after or name == "leave_out_seen":
        seen = [f"--config.sources.a.path={room.folder / 'again'}"] if name == "leave_out_seen" else []
        counted(server, logs[0], v.train(place / "earlier", *seen))
        start = [f"--config.init_from={place / 'earlier'}"]
    counted(server, logs[1], v.train(place / "run", *start, f"{STAGE}duration={stop} steps", *BIG[1:]))
    outcome = counted(server, logs[1], v.train(place / "run", *start, *overrides))
    verdict, reason = failed(outcome), outcome.reason
    if verdict is None and outcome.code == 0:
        twice, positions = taken(logs)
        state = server.call(["state", str(place / "run")])
        reason = f"{twice} rows twice; {positions:,} tokens trained, {(state.answer or {}).get('tokens')} reported"
        if twice or not state.answer or state.answer["tokens"] != positions:
            verdict = "silent"
    drop(place)
    what = f"after {stop} steps{' of a run that starts from another' if start else ''}: {' '.join(overrides)}"
    return Trial(f"restart: {name}", what, verdict or ("noticed" if outcome.code else "harmless"), reason)


def counted(server: Server, log: Path, call: list[str]):
    """Trains as `call` says, with every batch that the loop takes noted in `log`; a line `new` begins an attempt."""
    with log.open("a") as out:
        out.write('"new"\n')
    return server.call(["train_counting", str(log), *call[3:]])


def taken(logs: list[Path]) -> tuple[int, int]:
    """Rows taken more than once by all runs together, and positions that the last run trained on.

    What a later attempt of a run replays counts once: an attempt replaces the steps from its first on.
    """
    rows: Counter[str] = Counter()
    positions = 0
    for log in logs:
        steps: dict[int, dict] = {}
        begins = False
        for line in log.read_text().splitlines() if log.exists() else []:
            entry = json.loads(line)
            if entry == "new":
                begins = True
                continue
            if begins:
                steps = {s: e for s, e in steps.items() if s < entry["step"]}
                begins = False
            steps[entry["step"]] = entry
        for entry in steps.values():
            rows.update(entry["rows"])
        positions = sum(e["positions"] for e in steps.values())
    return sum(n - 1 for n in rows.values() if n > 1), positions
