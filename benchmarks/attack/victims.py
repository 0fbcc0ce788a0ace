"""The victims: one of everything that jaxpt writes, as small as it gets, made once by the code under attack."""

import gzip
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attack.children import Children

STOP = ["the", "of", "and", "to", "that", "with", "have", "in", "is"]  # what cleaning rules look for
LENGTH, STEPS, SAVE = 32, 12, 4

CONFIG = f"""
def get_config(folder):
    return dict(
        model=dict(vocab_size=330, embed=16, heads=2, kv_heads=1, head_dim=8, mlp=32, layers=2, tie_embeddings=True),
        tokenizer=folder + "/tokenizer.model",
        sources=dict(a=dict(path=folder + "/packed/a"), b=dict(path=folder + "/packed/b")),
        stages=[dict(batch_size=4, sequence_length={LENGTH}, duration="{STEPS} steps", mixture=dict(a=0.7, b=0.3),
                     schedule=dict(name="constant"))],
        optimizer=dict(learning_rate=1e-2),
        checkpoint=dict(every="{SAVE} steps", keep=3),
        metrics=dict(every=1, tensorboard=False),
    )
"""
PIPELINE = """
def get_config(folder):
    steps = [
        dict(command="clean", options=dict(preset="gopher")),
        dict(command="dedup"),
        dict(command="tokenize", options=dict(keep="source")),
        dict(command="pack", options=dict(sequence_length=32, by="source")),
    ]
    return dict(input=folder + "/text/*.jsonl*", tokenizer=folder + "/tokenizer.model", workers=1, steps=steps)
"""


@dataclass(frozen=True)
class Victims:
    """Where they lie: `folder/{text, tokenizer.model, packed, tokens, cache, run, stopped, bundle, hf, pipeline}`.

    `run` is finished; `stopped` is the same run as it was after its second checkpoint and a few steps.
    """

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name

    @property
    def config(self) -> str:
        """The run's config, as `--config` takes it."""
        return f"{self.folder / 'config.py'}:{self.folder}"

    @property
    def pipeline_config(self) -> str:
        """The pipeline's, likewise."""
        return f"{self.folder / 'pipeline.py'}:{self.folder}"

    def train(self, workdir: Path, *overrides: str) -> list[str]:
        """The call that trains in `workdir`."""
        return ["command", "jaxpt", "train", f"--config={self.config}", f"--workdir={workdir}", *overrides]


def write_text(folder: Path, seed: int, documents: int = 80) -> None:
    """Writes documents of random words, in sentences: `a.jsonl.gz` and, plain, `b.jsonl`."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnoprstuvw"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 8))) for _ in range(300)] + STOP * 8
    folder.mkdir(parents=True)
    for name, opened in (("a.jsonl.gz", gzip.open), ("b.jsonl", open)):
        with opened(folder / name, "wt") as out:
            for _ in range(documents):
                sentences = [
                    " ".join(rng.choices(words, k=rng.randint(5, 12))) + "." for _ in range(rng.randint(7, 14))
                ]
                out.write(json.dumps({"text": "\n".join(sentences), "source": name[0]}) + "\n")


def make(folder: Path, children: Children, seed: int) -> Victims:
    """Makes all victims in `folder`; raises SystemExit where the undisturbed code fails."""
    v = Victims(folder)
    write_text(v.text, seed)
    (folder / "config.py").write_text(CONFIG)
    (folder / "pipeline.py").write_text(PIPELINE)
    tokenizer = str(folder / "tokenizer.model")
    data = ["command", "jaxpt-data"]
    calls = [
        [["make_tokenizer", str(v.text / "a.jsonl.gz"), tokenizer]],
        *([[*data, "pack", f"--input={v.text / n}.jsonl*", f"--output={v.packed / n}", f"--sequence_length={LENGTH}",
            f"--tokenizer={tokenizer}"]] for n in "ab"),
        [[*data, "tokenize", f"--input={v.text}/*.jsonl*", f"--output={v.tokens}", f"--tokenizer={tokenizer}",
          "--keep=source"]],
        [["cached", str(v.text / "a.jsonl.gz"), LENGTH, tokenizer, str(v.cache)]],
        [v.train(v.run)],
        [["save", str(v.run), str(v.bundle)]],
        [["command", "jaxpt", "export", f"--from={v.bundle}", f"--to={v.hf}"]],
        [[*data, "run", f"--config={v.pipeline_config}", f"--workdir={v.pipeline}"]],
    ]  # fmt: skip
    for call in calls:
        outcome = children.call(*call, limit=300)
        if outcome.code or outcome.hung:
            raise SystemExit(f"a victim could not be made: {call}: {outcome.text[-2000:]}")
    shutil.copytree(v.run, v.stopped)
    shutil.rmtree(v.stopped / "checkpoints" / str(STEPS))
    return v
