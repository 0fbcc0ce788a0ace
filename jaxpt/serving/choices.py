"""Continuations as answers show them: their text until now, and the tokens that are new in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxpt.generation.detokenize import UNFINISHED
from jaxpt.generation.requests import Completion, first_stop
from jaxpt.serving.asked import ContinuationOptions
from jaxpt.serving.jobs import PromptJob
from jaxpt.serving.vocabulary import ServedVocabulary


@dataclass(frozen=True)
class NewText:
    """What has come since the last time: text, the places of the tokens `[begin, end)`, and why it ended (None: it has
    not)."""

    text: str
    begin: int
    end: int
    reason: str | None


@dataclass
class ChoiceText:
    """The text of continuation `number` of a job, which can be taken as it comes.

    What may still change is held back: bytes that are no whole character yet, and the beginning of a stop text. `kept`
    are control tokens that stay in the text.
    """

    vocabulary: ServedVocabulary
    asked: ContinuationOptions
    job: PromptJob
    number: int
    kept: frozenset[int] = frozenset()
    _sent: str = field(default="", init=False)
    _tokens: int = field(default=0, init=False)

    @property
    def completion(self) -> Completion:
        """What the engine has made of it."""
        return self.job.completions[self.number]

    @property
    def ended_by_token(self) -> bool:
        """Whether its last token ended it, which its text does not show."""
        made = self.completion
        return self.job.ended[self.number] and made.tokens[-1] in self.job.requests[self.number].stop_ids

    def take(self) -> NewText:
        """Returns what is new."""
        ended = self.job.ended[self.number]
        count = self.job.visible[self.number]
        text = self.vocabulary.continuation(
            self.job.prompt,
            self.completion.tokens[:count],
            ended=ended and self.ended_by_token,
            skip_special=self.asked.skip_special,
            kept=self.kept,
        )
        cut = first_stop(text, self.asked.stops)
        if cut is not None:
            text = text[:cut]
        elif not ended:
            text = held_back(text, self.asked.stops)
        begin, self._tokens = self._tokens, count
        new = text[len(self._sent) :] if text.startswith(self._sent) else ""
        self._sent += new
        return NewText(new, begin, count, self.completion.reason if ended else None)


def held_back(text: str, stops: Sequence[str]) -> str:
    """Returns `text` without its end as far as that may become another character or a stop text."""
    text = text.rstrip(UNFINISHED)
    longest = 0
    for stop in stops:
        for n in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:n]):
                longest = n
                break
    return text[: len(text) - longest]
