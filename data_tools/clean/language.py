"""Identify the language of a text: py3langid, which ships its model, or a fastText model file that the user gives."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from jaxpt.errors import JaxptError

SHIPPED = "py3langid"
Identify = Callable[[Sequence[str]], list[tuple[str, float]]]


def _shipped() -> Identify:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise JaxptError(
            "clean: language identification needs py3langid; pip install py3langid, give --lid_model=FILE "
            "(fastText: lid.176, GlotLID), or set language.on=false"
        ) from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda texts: [identifier.classify(text) for text in texts]


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
    return _shipped() if model == SHIPPED else _fasttext(model)


def sample(text: str, length: int) -> str:
    """Returns what is looked at: `length` characters from the middle of the text, the ends being menus and footers."""
    if len(text) <= length:
        return text
    start = (len(text) - length) // 2
    return text[start : start + length]
