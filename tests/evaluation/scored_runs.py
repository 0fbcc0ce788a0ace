"""A tiny run over text with a tokenizer, and a task of its own: for tests of scores at checkpoints."""

from pathlib import Path

from jaxpt.data.build import build
from jaxpt.tokenizers import train_sentencepiece
from tests.evaluation import sums

CONFIG = """
def get_config(folder):
    stage = dict(batch_size=8, sequence_length=32, mixture=dict(sums=1), duration="4 steps")
    return dict(
        model=dict(vocab_size=300, embed=16, heads=2, kv_heads=2, head_dim=8, mlp=32, layers=2),
        tokenizer=folder + "/tokenizer.model",
        sources=dict(sums=dict(path=folder + "/packed", repeat=100)),
        stages=[dict(stage, name="main"), dict(stage, name="anneal", learning_rate=1e-3)],
        optimizer=dict(learning_rate=1e-2),
        checkpoint=dict(every="1 steps", keep=2),
        metrics=dict(every=1),
    )
"""
ENTRY = {"name": "downstream", "before": False, "after": False}


def make(folder: Path) -> Path:
    """Writes text, tokenizer, packed rows, the task with its questions, and the config; returns the folder."""
    texts = sums.texts(0, 60)
    file = sums.write(folder / "train.jsonl", texts)
    build(str(file), folder / "packed", train_sentencepiece(texts, folder / "tokenizer.model", 300), 32)
    asked = [
        {"question": f"{a} plus {a + 1} is", "choices": [f" {a + a + d}." for d in (1, 3, 10)], "label": 0}
        for a in range(2, 12)
    ]
    sums.write_task(folder, asked)
    (folder / "config.py").write_text(CONFIG)
    return folder


def flags(folder: Path, workdir: Path, *overrides: str, **entry: object) -> list[str]:
    """Returns the arguments of `jaxpt train`; `entry` are options of a downstream entry `sums`, none without any."""
    given = [f"--config={folder / 'config.py'}:{folder}", f"--workdir={workdir}", *overrides]
    options = {**ENTRY, "tasks": (str(folder / "sums.yaml"),), **entry} if entry else {}
    return [*given, *(f"--config.evaluations.sums.{key}={value}" for key, value in options.items())]


def followed(folder: Path, workdir: Path, *more: str) -> list[str]:
    """Returns the arguments of `jaxpt eval` that follow the run in `workdir`."""
    return [f"--follow={workdir}", f"--tasks={folder / 'sums.yaml'}", *more]
