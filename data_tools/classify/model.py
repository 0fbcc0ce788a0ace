"""The one place that talks to fastText: train, load, and score lists of texts.

Any module named `fasttext` will do. Only list prediction is used: single-string prediction is broken under numpy 2 in
the original package, while `fasttext-numpy2` is a drop-in that needs no compiler.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xxhash

from data_tools.classify.recipes import Recipe
from jaxpt.errors import JaxptError
from jaxpt.files.partial import whole_file, writes

PREFIX = "__label__"
# With one thread fastText draws only a tenth of its input matrix and leaves the rest as the allocator gives it (seen:
# values of 1e36, NaN). glibc fills what it hands out with zeros in a process that is started with this setting.
ZEROED_MEMORY = {"MALLOC_PERTURB_": "255"}
TRAIN = """import json, sys, fasttext
settings = json.loads(sys.argv[1])
model = fasttext.train_supervised(sys.argv[2], **settings)
model.save_model(sys.argv[3])
end = model.get_output_matrix().tobytes()[-64:]  # fastText says nothing of a full disk
if not open(sys.argv[3], "rb").read().endswith(end): sys.exit("the disk is full, where temporary files lie (TMPDIR)")"""
END = 64  # bytes of a model's file that are compared with what was to be written
_LEAST = 1e-9  # of a probability, in log-odds
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_BREAKS = re.compile(r"[\s\x00\x1c-\x1f\x85\u2028\u2029]+")


def _fasttext() -> ModuleType:
    try:
        import fasttext
    except ImportError as error:
        raise JaxptError("classify needs the module fasttext; install fasttext-numpy2 (or fasttext)") from error
    fasttext.FastText.eprint = lambda *args, **kwargs: None  # its warning on every load
    return fasttext


def _train(fasttext: ModuleType, path: Path, recipe: Recipe) -> Any:
    """Trains on a file in a process of its own and returns the model."""
    settings = {
        name: getattr(recipe, name) for name in ("dim", "lr", "epoch", "minn", "maxn", "bucket", "loss", "seed")
    }
    settings |= {"wordNgrams": recipe.word_ngrams, "minCount": recipe.min_count, "thread": 1, "verbose": 0}
    model = path.with_name("model.bin")
    call = [sys.executable, "-c", TRAIN, json.dumps(settings), str(path), str(model)]
    done = subprocess.run(call, env={**os.environ, **ZEROED_MEMORY}, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise JaxptError(f"classify: fastText could not train ({reason}); try a smaller lr or other recipe settings")
    return fasttext.load_model(str(model))


def prepare(text: str, recipe: Recipe) -> str:
    """Returns `text` on one line, cut to the recipe's length, unspaced scripts with a space around each character."""
    text = text[: recipe.max_chars].encode("utf-8", "replace").decode("utf-8")
    text = _UNSPACED.sub(r" \1 ", text.lower() if recipe.lowercase else text)
    return _BREAKS.sub(" ", text.replace(PREFIX, "")).strip()


class Classifier:
    """A trained fastText model with the recipe it was trained by."""

    def __init__(self, model: Any, recipe: Recipe):
        """`model` is one of fastText's own."""
        self._model, self.recipe = model, recipe
        self.labels = sorted(label.removeprefix(PREFIX) for label in model.get_labels())

    @staticmethod
    def train(examples: Iterable[tuple[str, str]], recipe: Recipe) -> "Classifier":
        """Trains on `(text, label)` pairs, with one thread and in an order that only their content decides.

        The same examples give the same model in whatever order they come; fastText learns badly from sorted labels.

        Raises:
            JaxptError: fewer than two labels, a label with white space, or fastText missing.
        """
        fasttext = _fasttext()
        labels = set()
        if recipe.word_ngrams < 2 and not recipe.maxn:
            raise JaxptError("classify: word_ngrams must be 2 or more, or maxn > 0 (fastText's own start is undefined)")
        lines = []
        for text, label in examples:
            if not label or _BREAKS.search(label):
                raise JaxptError(f"classify: label {label!r} must be one word without spaces")
            labels.add(label)
            lines.append(f"{PREFIX}{label} {prepare(text, recipe)}\n")
        if len(labels) < 2:
            raise JaxptError(f"classify: training needs at least two labels, found {sorted(labels)}")
        lines.sort(key=lambda line: (xxhash.xxh3_64_intdigest(line.encode(), seed=recipe.seed), line))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.txt"
            with writes(path):
                path.write_text("".join(lines), encoding="utf-8")
            model = _train(fasttext, path, recipe.for_examples(len(lines)))
        return Classifier(model, recipe)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the probability of every label for every text, `[n, labels] float32` in the order of `labels`.

        A text without a single known word gets equal probabilities.
        """
        out = np.full((len(texts), len(self.labels)), 1.0 / len(self.labels), dtype=np.float32)
        if not len(texts):
            return out
        column = {PREFIX + label: i for i, label in enumerate(self.labels)}
        names, values = self._model.predict([prepare(t, self.recipe) for t in texts], k=len(self.labels))
        for row, (predicted, chance) in enumerate(zip(names, values)):
            if len(predicted):
                out[row] = 0.0
                out[row, [column[name] for name in predicted]] = np.minimum(chance, 1.0)
        return out

    def best(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Returns the likeliest label of every text with its probability; ("", 0.0) where no word is known.

        The texts are given to the model as they are, on one line: as language identification models were trained.
        """
        if not len(texts):
            return []
        plain = [_BREAKS.sub(" ", t.encode("utf-8", "replace").decode("utf-8")).strip() for t in texts]
        names, values = self._model.predict(plain, k=1)
        return [
            (labels[0].removeprefix(PREFIX), min(float(chance[0]), 1.0)) if len(labels) else ("", 0.0)
            for labels, chance in zip(names, values)
        ]

    def margins(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n] float64`: the log-odds of the recipe's positive label, the same in whatever batch a text comes.

        They rank texts whose probability is 1 in float32, where they are computed from the model's outputs (`loss`
        softmax or ova); of other losses and of quantized models they are the log-odds of the probability.

        Raises:
            JaxptError: the recipe names no positive label, or one that the model does not know.
        """
        positive = self._positive()
        if self.recipe.loss not in ("softmax", "ova") or self._model.is_quantized():
            chance = self.probabilities(texts)[:, positive].astype(np.float64)
            return np.log(np.maximum(chance, _LEAST)) - np.log(np.maximum(1.0 - chance, _LEAST))
        out = np.empty(len(texts))
        for i, text in enumerate(texts):
            hidden = self._model.get_sentence_vector(prepare(text, self.recipe)).astype(np.float64)
            logits = (self._outputs * hidden).sum(axis=1)  # no matrix product: its sums depend on the batch
            mine, others = logits[positive], np.delete(logits, positive)
            out[i] = mine if self.recipe.loss == "ova" else mine - np.logaddexp.reduce(others)
        return out

    @cached_property
    def _outputs(self) -> np.ndarray:
        """The output vector of every label, `[labels, dim] float64` in the order of `labels`."""
        names = [name.removeprefix(PREFIX) for name in self._model.get_labels()]
        matrix = self._model.get_output_matrix().astype(np.float64)
        return matrix[[names.index(label) for label in self.labels]]

    def _positive(self) -> int:
        if self.recipe.positive not in self.labels:
            raise JaxptError(f"classify: positive={self.recipe.positive!r} is not among the labels {self.labels}")
        return self.labels.index(self.recipe.positive)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n] float32`: the probability of the recipe's positive label.

        Raises:
            JaxptError: the recipe names no positive label, or one that the model does not know.
        """
        positive = self._positive()
        return self.probabilities(texts)[:, positive]

    def save(self, path: str | Path) -> None:
        """Writes `PATH` (fastText's own format) and, last, `PATH.json` with the recipe."""
        path = Path(path)
        with whole_file(path, path.with_name(path.name + ".tmp")) as temporary:
            self._model.save_model(str(temporary))
            self._check_end(temporary, path)
        with whole_file(path.with_name(path.name + ".json"), path.with_name(path.name + ".json.tmp")) as note:
            facts = {"recipe": asdict(self.recipe), "labels": self.labels}
            note.write_text(json.dumps(facts, indent=1, ensure_ascii=False))

    def _check_end(self, written: Path, path: Path) -> None:
        """Raises a JaxptError where a file does not end as the model does: fastText says nothing of a full disk."""
        end = np.asarray(self._model.get_output_matrix(), np.float32).tobytes()[-END:]
        with written.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - len(end), 0))
            if file.read() != end:
                raise JaxptError(f"{path}: writing failed after {size:,} bytes; free space or choose another target")

    @staticmethod
    def load(path: str | Path, recipe: Recipe | None = None) -> "Classifier":
        """Reads a model; `recipe` says how to feed one that was trained elsewhere and has no `PATH.json`.

        Raises:
            JaxptError: a missing file, or no recipe.
        """
        path = Path(path)
        note = path.with_name(path.name + ".json")
        if not path.is_file():
            raise JaxptError(f"classify: model {path} does not exist")
        if recipe is None:
            if not note.is_file():
                raise JaxptError(f"classify: {note} is missing; give --recipe to say how {path.name} was trained")
            recipe = Recipe(**json.loads(note.read_text())["recipe"])
        return Classifier(_fasttext().load_model(str(path)), recipe)
