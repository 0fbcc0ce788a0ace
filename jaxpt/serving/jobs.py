"""What the server asks of the engine's thread: one prompt to read, and its continuations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jaxpt.generation import Completion, Request
from jaxpt.serving.refusal import Refusal


def nobody() -> None:
    """Hears of nothing."""


@dataclass(eq=False)
class PromptJob:
    """A prompt, the continuations that are wanted of it (perhaps none), and what there is of them until now.

    The engine's thread writes, others read: of `completions[i]` the first `visible[i]` tokens. `prompt_top`: so many of
    the likeliest tokens beside each token of the prompt; None: no log-probabilities of the prompt. `deadline` is a
    time of `time.monotonic`. `notify` is called in the engine's thread whenever there is more, and at the end.
    """

    prompt: Sequence[int]
    requests: Sequence[Request]
    prompt_top: int | None
    deadline: float
    notify: Callable[[], None] = nobody
    read: bool = False
    finished: bool = False
    refusal: Refusal | None = None
    prompt_logprobs: list[float] = field(default_factory=list)
    prompt_likeliest: list[list[tuple[int, float]]] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    visible: list[int] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    submitted: float = 0.0
    first_token: float | None = None

    def __post_init__(self) -> None:
        self.completions = [Completion() for _ in self.requests]
        self.visible = [0] * len(self.requests)
        self.ended = [False] * len(self.requests)

    @property
    def needs_slot(self) -> bool:
        """Whether a continuation has more than one token at most: one follows from reading the prompt."""
        return any(r.max_new_tokens > 1 for r in self.requests)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.finished or self.refusal is not None

    def see(self, number: int, completion: Completion, ended: bool) -> bool:
        """Shows a continuation as far as it is; returns whether that is more than before."""
        more = len(completion.tokens) > self.visible[number] or ended
        self.completions[number] = completion
        self.visible[number], self.ended[number] = len(completion.tokens), ended
        self.finished = self.read and all(self.ended)
        return more
