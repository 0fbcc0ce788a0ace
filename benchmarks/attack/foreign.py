"""Folders that are the user's own, where jaxpt wants to write: whatever is typed, their bytes stay as they were."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.attack.children import Server
from benchmarks.attack.jobs import RESHAPE
from benchmarks.attack.judge import Trial, failed
from benchmarks.attack.room import Room, drop
from benchmarks.attack.victims import LENGTH, Victims

STEPS = ("clean", "dedup", "tokenize", "pack")
NAMES = ("..", "../mine", "../../mine", ".", "a/../../mine", "{place}/mine", "mine/../../mine", "clean/../../mine")
DATA = {
    "clean": ["--preset=gopher"],
    "dedup": [],
    "extract": [],
    "decontaminate": ["--eval={text}/b.jsonl"],
    "tokenize": ["--tokenizer={tokenizer}"],
    "pack": ["--tokenizer={tokenizer}", f"--sequence_length={LENGTH}"],
    "perplexity": ["--train={text}/a.jsonl.gz"],
    "longdoc": ["--how=links"],
    "classify": ["--model={place}/none.bin"],
}
OVER = {  # input, output
    "itself": ("{mine}", "{mine}"),
    "with a slash": ("{mine}", "{mine}/"),
    "a glob's folder": ("{mine}/*.jsonl*", "{mine}"),
    "a file's folder": ("{mine}/b.jsonl", "{mine}"),
    "by a way round": ("{mine}", "{mine}/sub/.."),
    "by a link": ("{mine}", "{place}/link"),
    "through a link": ("{place}/link", "{mine}"),
    "inside": ("{mine}", "{mine}/sub"),
    "two inputs": ("{text}/b.jsonl,{mine}", "{mine}"),
}


def attack(room: Room) -> list[Trial]:
    """All of the cases once; chance plays no part."""
    todo: list[tuple[str, str, Callable[[Path], tuple[Path, list[str]]]]] = []
    v = room.victims
    for name in (*STEPS, "steps", "report"):
        todo.append(("pipeline: own folder in the workdir", name, lambda place, name=name: own_folder(v, place, name)))
    for name in NAMES:
        todo.append(("pipeline: a step's name", name, lambda place, name=name: named_step(v, place, name)))
    for command in DATA:
        for how in OVER:
            todo.append(("output over input", how, lambda place, c=command, h=how: over_input(v, place, c, h)))
    for name in MODELS:
        todo.append(("model commands over what is there", name, lambda place, name=name: models(v, place, name)))
    return room.children.each(lambda server, item: one(room, server, *item), todo)


def one(room: Room, server: Server, kind: str, what: str, make: Callable[[Path], tuple[Path, list[str]]]) -> Trial:
    """One trial: `make` prepares a folder `mine` and says which command is run."""
    place = room.place()
    mine, call = make(place)
    before = contents(mine)
    outcome = server.call(call)
    after = contents(mine)
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    verdict = failed(outcome) or ("noticed" if outcome.code else "harmless")
    reason = outcome.reason
    if changed:
        verdict, reason = "silent", f"exit {outcome.code}; changed or gone: {', '.join(changed[:3])}; {outcome.reason}"
    drop(place)
    return Trial(kind, f"{what}: {' '.join(map(str, call[1:]))}", verdict, reason)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file below, links followed."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def own(folder: Path) -> Path:
    """Some files of the user's."""
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "thesis.txt").write_text("years of work")
    (folder / "deep" / "b.jsonl").write_text('{"text": "mine"}\n')
    return folder


def own_folder(v: Victims, place: Path, name: str) -> tuple[Path, list[str]]:
    """The workdir has a folder of a step's name already."""
    workdir = place / "data"
    own(workdir / name)
    return workdir / name, ["command", "jaxpt-data", "run", f"--config={v.pipeline_config}", f"--workdir={workdir}"]


def named_step(v: Victims, place: Path, name: str) -> tuple[Path, list[str]]:
    """A step has a name that leads out of the workdir."""
    own(place / "mine")
    own(place / "deep" / "mine")
    name = name.format(place=place)
    config = {"input": f"{v.text}/*.jsonl*", "workers": 1,
              "steps": [{"command": "clean", "name": name, "options": {"preset": "gopher"}}]}  # fmt: skip
    file = place / "config.py"
    file.write_text(f"def get_config():\n    return {config!r}\n")
    workdir = place / "deep" / "data"
    workdir.mkdir()
    (workdir / "keep.txt").write_text("mine, too")
    return place, ["command", "jaxpt-data", "run", f"--config={file}", f"--workdir={workdir}"]


def over_input(v: Victims, place: Path, command: str, how: str) -> tuple[Path, list[str]]:
    """A command writes where it reads."""
    mine = place / "mine"
    shutil.copytree(v.text, mine)
    if command == "extract":
        page = "<html><body><p>" + "A page with words enough to be text. " * 20 + "</p></body></html>"
        (mine / "b.jsonl").write_text(json.dumps({"text": page}) + "\n")
    (mine / "sub").mkdir()
    os.symlink(mine, place / "link")
    facts = {"mine": mine, "place": place, "text": v.text, "tokenizer": v.folder / "tokenizer.model"}
    source, target = (text.format(**facts) for text in OVER[how])
    more = [flag.format(**facts) for flag in DATA[command]]
    return mine, ["command", "jaxpt-data", command, f"--input={source}", f"--output={target}", *more]


MODELS: dict[str, tuple[str, list[str]]] = {  # what is copied to `mine`, the command
    "export over its bundle": ("bundle", ["export", "--from={mine}", "--to={mine}"]),
    "export into its bundle": ("bundle", ["export", "--from={mine}", "--to={mine}/params"]),
    "import over its source": ("hf", ["import", "--from={mine}", "--to={mine}"]),
    "import over a run": ("run", ["import", "--from={v.hf}", "--to={mine}"]),
    "reshape over its source": ("bundle", ["reshape", f"--config={RESHAPE}:uniform", "--from={mine}", "--to={mine}",
                                           "--config.target.layers=1"]),
    "pictures among one's own": ("bundle", ["reshape", f"--config={RESHAPE}", "--from={v.bundle}", "--to={place}/b",
                                            "--config.target.mlp=16", "--pictures={mine}"]),
    "a run in a bundle": ("bundle", ["train", "--config={v.config}", "--workdir={mine}"]),
    "a run in a packed source": ("packed", ["train", "--config={v.config}", "--workdir={mine}/a"]),
    "a run in a folder of text": ("text", ["train", "--config={v.config}", "--workdir={mine}"]),
    "a run in another run's checkpoints": ("run", ["train", "--config={v.config}", "--workdir={mine}/checkpoints"]),
    "a run from itself": ("run", ["train", "--config={v.config}", "--workdir={mine}", "--config.init_from={mine}"]),
    "a report of a bundle": ("bundle", ["report", "--workdir={mine}"]),
}  # fmt: skip


def models(v: Victims, place: Path, name: str) -> tuple[Path, list[str]]:
    """A model's command is pointed at what is there already."""
    victim, words = MODELS[name]
    mine = place / "mine"
    shutil.copytree(v.folder / victim, mine)
    return mine, ["command", "jaxpt", *(w.replace("{mine}", str(mine)).replace("{place}", str(place))
                                        .replace("{v.hf}", str(v.hf)).replace("{v.bundle}", str(v.bundle))
                                        .replace("{v.config}", v.config) for w in words)]  # fmt: skip
