"""Where in a run a step of a stage is: steps and tokens done before it, however the size of steps changes."""

from collections.abc import Sequence
from fractions import Fraction

Sizes = Sequence[tuple[int, int]]  # (steps, tokens of each)


class Course:
    """The steps of a stage and their tokens, and those of the run before it. Step 0 is the stage's first.

    Steps before the stage count down from -1; past its end the last size goes on.
    """

    def __init__(self, sizes: Sizes, end: Fraction | None = None, before: Sizes = ()):
        """Lays out the steps.

        Args:
            sizes: of all the stage's steps, in order.
            end: the stage's duration in tokens, which its last step may pass; None where it is in steps.
            before: of the run's steps before the stage.
        """
        self.end = end
        self.steps = sum(n for n, _ in sizes)
        self.steps_before, self.tokens_before = sum(n for n, _ in before), sum(n * size for n, size in before)
        self._sizes = [(n, size) for n, size in (*before, *sizes) if n] or [(1, sizes[-1][1])]

    @property
    def uniform(self) -> bool:
        """Whether all the stage's steps have one size."""
        at, seen = 0, set()
        for steps, size in self._sizes:
            at += steps
            if at > self.steps_before:
                seen.add(size)
        return len(seen) <= 1

    def run_tokens(self, step: int) -> int:
        """Tokens of the whole run before a step of the stage."""
        left, out = step + self.steps_before, 0
        for steps, size in self._sizes:
            out += min(left, steps) * size
            left -= min(left, steps)
        return out + left * self._sizes[-1][1]

    def tokens(self, step: int) -> int | Fraction:
        """Tokens of the stage before one of its steps, none past its duration."""
        done = self.run_tokens(step) - self.tokens_before
        return done if self.end is None or done < self.end else self.end

    def size(self, step: int) -> int:
        """Tokens of a step."""
        return self.run_tokens(step + 1) - self.run_tokens(step)

    def step_at(self, tokens: int | Fraction) -> Fraction:
        """The step of the stage at which so many of its tokens are done."""
        return self.step_of_run(tokens + self.tokens_before) - self.steps_before

    def step_of_run(self, tokens: int | Fraction) -> Fraction:
        """The step of the run at which so many of its tokens are done."""
        at = Fraction(0)
        for steps, size in self._sizes[:-1]:
            if tokens <= steps * size:
                return at + Fraction(tokens) / size
            tokens, at = tokens - steps * size, at + steps
        return at + Fraction(tokens) / self._sizes[-1][1]
