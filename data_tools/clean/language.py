"""Identify the language of a text: py3langid, which ships its model, or a fastText model file that the user gives."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from jaxpt.errors import JaxptError

SHIPPED = "py3langid"
GROUP = 256  # texts at a time
Identify = Callable[[Sequence[str]], list[tuple[str, float]]]


class Shipped:
    """py3langid's model applied to many texts at once: its automaton reads byte k of all texts in one step.

    The library reads one text after the other in Python; the labels and probabilities are the same.
    """

    def __init__(self):
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise JaxptError(
                "clean: language identification needs py3langid; pip install py3langid, give --lid_model=FILE "
                "(fastText: lid.176, GlotLID), or set language.on=false"
            ) from error
        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._encode, self._labels, self._pairs = model._encode, model.nb_classes, model._alias_pairs
        self._weights = np.asarray(model.nb_ptc, np.float32)  # [features, labels]
        self._prior = np.asarray(model.nb_pc, np.float32)
        self._next = np.asarray(model.tk_nextmove, np.int64)
        self._row = np.asarray(model.tk_row, np.int64) << 8
        self._feature = np.asarray(model.tk_output, np.int64)  # of each state, -1 for none

    def _walk(self, data: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features met, with the number of the text that met each."""
        length = np.array([len(d) for d in data])
        order = np.argsort(-length, kind="stable")
        table = np.zeros((len(data), int(length.max(initial=0))), np.uint8)
        for row, text in enumerate(order.tolist()):
            table[row, : len(data[text])] = np.frombuffer(data[text], np.uint8)
        state = np.zeros(len(data), np.int64)
        hits, owner = [], []
        alive = np.searchsorted(-length[order], -np.arange(table.shape[1]), side="left")  # texts longer than k bytes
        for k, n in enumerate(alive.tolist()):
            state[:n] = self._next[self._row[state[:n]] + table[:n, k]]
            feature = self._feature[state[:n]]
            hit = np.flatnonzero(feature >= 0)
            hits.append(feature[hit])
            owner.append(order[hit])
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *hits]), np.concatenate([none, *owner])

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Returns the likeliest label of each text and its probability."""
        out: list[tuple[str, float]] = []
        for start in range(0, len(texts), GROUP):
            out += self._group([self._encode(text) for text in texts[start : start + GROUP]])
        return out

    def _group(self, data: list[bytes]) -> list[tuple[str, float]]:
        from scipy.sparse import csr_matrix  # 0.3 s, which `--help` and runs without languages do not need

        feature, owner = self._walk(data)
        met = csr_matrix((np.ones(len(feature), np.float32), (owner, feature)), (len(data), len(self._weights)))
        present = np.diff(met.indptr) > 0  # equal pairs were summed
        met.data = np.log1p(met.data)
        scores = met @ self._weights  # row by row, so that no text changes another's score
        scores[present] += self._prior
        scores /= np.sqrt([[max(len(d), 1)] for d in data])
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        for kept, double in self._pairs:
            chances[:, kept] += chances[:, double]
            chances[:, double] = 0
        best = chances.argmax(axis=1)
        return [(self._labels[b], float(row[b])) for b, row in zip(best.tolist(), chances)]


def _fasttext(path: str) -> Identify:
    from data_tools.classify.model import Classifier
    from data_tools.classify.recipes import Recipe

    model = Classifier.load(path, Recipe(lowercase=False))
    return model.best


@lru_cache(maxsize=4)
def identifier(model: str = SHIPPED) -> Identify:
    """Returns a function from texts to (label, probability) pairs.

    Args:
        model: `py3langid` or the path of a fastText model; its labels are taken as they are (`en`, `eng_Latn`).
    """
    return Shipped() if model == SHIPPED else _fasttext(model)


def sample(text: str, length: int) -> str:
    """Returns what is looked at: `length` characters from the middle of the text, the ends being menus and footers."""
    if len(text) <= length:
        return text
    start = (len(text) - length) // 2
    return text[start : start + length]
