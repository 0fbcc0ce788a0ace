"""Lengths of training as people write them: "500 steps", "1.5M tokens", "10%", "rest"."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from jaxpt.errors import JaxptError

_SCALE = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_WHOLE = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*"  # a comma stands before three digits, else it means a decimal
_FORM = re.compile(rf"^\s*((?:{_WHOLE})(?:\.[0-9]+)?)\s*([kKMBGT]?)\s*(steps?|tokens?|%)\s*$", re.ASCII)


@dataclass(frozen=True)
class Duration:
    """A length of training, exact; a token is one of the B × S positions of a step."""

    amount: int | Fraction
    unit: Literal["steps", "tokens", "percent", "rest"]

    def steps(self, tokens_per_step: int, whole: int | None = None) -> int:
        """Returns the number of optimizer steps, rounded up.

        Args:
            tokens_per_step: B × S of the stage.
            whole: steps of the stage, of which a percentage is a part.
        """
        if self.unit == "steps":
            return math.ceil(self.amount)
        if self.unit == "tokens":
            return math.ceil(Fraction(self.amount) / tokens_per_step)
        if whole is None:
            raise JaxptError(f"a duration in {self.unit} needs a whole to be a part of; give steps or tokens")
        return math.ceil(Fraction(whole * self.amount) / 100)

    def is_due(self, steps_before: int, steps_now: int, tokens_before: int, tokens_now: int) -> bool:
        """Whether a multiple of this length lies in (before, now]: the rule for things done every so often."""
        before, now = (steps_before, steps_now) if self.unit == "steps" else (tokens_before, tokens_now)
        return now // self.amount > before // self.amount


def parse(text: str, where: str, *, parts: bool = False) -> Duration:
    """Reads a duration.

    Args:
        text: `"500 steps"`, `"120B tokens"`; with `parts` also `"10%"` and `"rest"`.
        where: the config key, for the error message.

    Raises:
        JaxptError: any other text.
    """
    if parts and text.strip() == "rest":
        return Duration(0, "rest")
    match = _FORM.match(text)
    unit = {"s": "steps", "t": "tokens", "%": "percent"}[match[3][0]] if match else ""
    if not match or (unit == "percent" and not parts):
        forms = '"500 steps", "2M tokens"' + (', "10%" or "rest"' if parts else "")
        comma = "; decimals follow a point, a comma only sets off three digits" if "," in text else ""
        raise JaxptError(f"{where} is {text!r}, it must be a duration such as {forms}{comma}")
    amount = Fraction(match[1].replace("_", "").replace(",", "")) * _SCALE[match[2]]
    if unit == "steps" and amount.denominator != 1:
        raise JaxptError(f"{where} is {text!r}, steps must be a whole number")
    return Duration(amount, unit)  # type: ignore[arg-type]


def steps_of_earlier_versions(text: str, tokens_per_step: int) -> int | None:
    """Returns the steps of a duration in tokens as versions before exact arithmetic counted them; None: of no other.

    They took `"2.007M tokens"` at 1,000 a step for 2,008 steps.
    """
    match = _FORM.match(text)
    if not match or match[3][0] != "t":
        return None
    return math.ceil(float(match[1].replace("_", "").replace(",", "")) * _SCALE[match[2]] / tokens_per_step)


def parse_interval(text: str | None, where: str) -> Duration | None:
    """Reads "every so often"; None stays None.

    Raises:
        JaxptError: no duration, or one of length 0.
    """
    if text is None:
        return None
    every = parse(text, where)
    if every.amount <= 0:
        raise JaxptError(f"{where} is {text!r}, it must be more than nothing")
    return every
