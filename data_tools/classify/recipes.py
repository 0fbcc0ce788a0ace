"""Ready training settings for the questions people ask of web text."""

from dataclasses import dataclass, fields, replace

from jaxpt.errors import JaxptError, nearest


@dataclass(frozen=True)
class Recipe:
    """How a fastText classifier is trained and fed."""

    positive: str = ""  # label whose probability is the score; "" for topic labels, where the best label counts
    dim: int = 100
    lr: float = 0.1
    epoch: int = 5
    word_ngrams: int = 2
    min_count: int = 1
    minn: int = 0  # character n-grams inside words, for short or misspelt text
    maxn: int = 0
    bucket: int = 200_000
    loss: str = "softmax"
    lowercase: bool = True
    small: int = 100_000  # examples; with fewer, `lr` and `epoch` are at least the next two
    small_lr: float = 0.5
    small_epoch: int = 20
    max_chars: int = 20_000  # of each document, from its beginning
    held_out: float = 0.1
    seed: int = 0

    def for_examples(self, count: int) -> "Recipe":
        """Returns the settings for so many examples: what suits millions hardly moves a classifier of a thousand."""
        if count >= self.small:
            return self
        return replace(self, lr=max(self.lr, self.small_lr), epoch=max(self.epoch, self.small_epoch))


RECIPES = {
    "quality": Recipe(positive="high"),  # DataComp-LM: word bigrams, 100 dimensions
    "education": Recipe(positive="high", word_ngrams=2, epoch=8),
    "code": Recipe(positive="code", minn=2, maxn=4, lowercase=False),
    "math": Recipe(positive="math", dim=256, word_ngrams=3, min_count=3, epoch=3),  # DeepSeekMath
    "topic": Recipe(lr=0.5, epoch=15, word_ngrams=2),
}


def recipe(name: str, **overrides) -> Recipe:
    """Returns the recipe of that name with some settings replaced; a given `lr` or `epoch` is taken as it is.

    Raises:
        JaxptError: an unknown recipe or setting.
    """
    if name not in RECIPES:
        raise JaxptError(f"classify recipe {name!r} is unknown{nearest(name, RECIPES)}; known: {', '.join(RECIPES)}")
    known = [f.name for f in fields(Recipe)]
    for key in overrides:
        if key not in known:
            raise JaxptError(f"classify recipe setting {key!r} is unknown{nearest(key, known)}")
    asked = {"small": 0} if {"lr", "epoch"} & set(overrides) else {}
    return replace(RECIPES[name], **{**asked, **overrides})
