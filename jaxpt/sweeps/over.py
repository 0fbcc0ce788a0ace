"""What `--over` says: a key with its values, or a range to draw them from; and the combinations of several keys."""

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxpt.errors import JaxptError, nearest

Combine = Literal["grid", "list", "random"]
Texts = dict[str, str]  # key of the config (without `config.`) -> value, as on a command line
LAWS = ("log", "uniform", "int")
DIGITS = 6  # of a drawn number
_RANGE = re.compile(r"(?P<law>[a-z]+):(?P<low>[^:]+?)\.\.(?P<high>[^:]+?)(?::(?P<count>\d+))?")


@dataclass(frozen=True)
class Over:
    """A key of the config and what it is given: `values`, or numbers of [low, high] drawn by `law`.

    `law` log: the logarithm is uniform; uniform: the number is; int: whole numbers, both ends included.
    """

    key: str
    values: tuple[str, ...] = ()
    law: str = ""
    low: float = 0.0
    high: float = 0.0

    def draw(self, rng: np.random.Generator) -> str:
        """Returns one value, as on a command line."""
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        if self.law == "int":
            return str(int(rng.integers(int(self.low), int(self.high) + 1)))
        low, high = (math.log(self.low), math.log(self.high)) if self.law == "log" else (self.low, self.high)
        drawn = rng.uniform(low, high)
        number = math.exp(drawn) if self.law == "log" else drawn
        return _text(min(max(number, self.low), self.high))


def parse_over(text: str) -> Over:
    """Reads `KEY=a,b,c`, `KEY=LAW:LOW..HIGH` or `KEY=LAW:LOW..HIGH:COUNT` (that many values, evenly spaced).

    Raises:
        JaxptError: another form, an empty value, a range that is none.
    """
    key, equals, given = text.removeprefix("config.").partition("=")
    where = f"--over={text}"
    if not equals or not key or not given:
        raise JaxptError(f"{where}: give KEY=VALUE,VALUE,… or KEY=log:LOW..HIGH")
    match = _RANGE.fullmatch(given)
    if not match:
        values = _split(given)
        if "" in values:
            raise JaxptError(f"{where}: a value is empty; a list within a value stands in brackets")
        if len(set(map(literal_key, values))) < len(values):
            raise JaxptError(f"{where}: a value is given twice")
        return Over(key, values)
    law = match["law"]
    if law not in LAWS:
        raise JaxptError(f"{where}: there is no law {law!r}{nearest(law, LAWS)}; known: {', '.join(LAWS)}")
    try:
        low, high = float(match["low"]), float(match["high"])
    except ValueError:
        raise JaxptError(f"{where}: {match['low']}..{match['high']} is no range of numbers") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (law == "log" and low <= 0):
        positive = " above 0" if law == "log" else ""
        raise JaxptError(f"{where}: the range must go from a smaller number{positive} to a larger one")
    if law == "int" and (low != int(low) or high != int(high)):
        raise JaxptError(f"{where}: both ends of int:LOW..HIGH are whole numbers")
    if match["count"] is None:
        return Over(key, (), law, low, high)
    return Over(key, _spaced(where, law, low, high, int(match["count"])))


def combinations(overs: Sequence[Over], how: Combine, count: int = 0, seed: int = 0) -> list[Texts]:
    """Returns what each point gives the keys.

    Args:
        overs: the keys.
        how: grid: each value of one key with each of the others, the last key fastest; list: the first values of all
            keys, the second ones, …; random: `count` draws, of which the i-th depends on `seed` and i alone.
        count: of random draws.
        seed: of random draws.

    Raises:
        JaxptError: a key that is given twice, a range where values are needed, lists of different lengths.
    """
    keys = [over.key for over in overs]
    for key in keys:
        if keys.count(key) > 1:
            raise JaxptError(f"--over={key}=… is given twice; put all its values into one")
    if how == "random":
        rngs = (np.random.default_rng((seed, i)) for i in range(count))
        return [{over.key: over.draw(rng) for over in overs} for rng in rngs]
    for over in overs:
        if over.law:
            ends = f"{over.law}:{over.low:g}..{over.high:g}"
            raise JaxptError(
                f"--over={over.key}={ends} is drawn from; give --random=N, or {ends}:COUNT for COUNT values"
            )
    if how == "list":
        if len({len(over.values) for over in overs}) > 1:
            sizes = ", ".join(f"{over.key} {len(over.values)}" for over in overs)
            raise JaxptError(f"--combine=list takes as many values of each key; there are {sizes}")
        return [dict(zip(keys, values)) for values in zip(*(over.values for over in overs))]
    return [dict(zip(keys, values)) for values in itertools.product(*(over.values for over in overs))]


def literal(text: str) -> object:
    """Returns a value of a command line as a number, a truth value or None where it is one, else as its text."""
    try:
        value = json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text
    return value if value is None or isinstance(value, bool | int | float) else text


def literal_key(text: str) -> tuple[str, object]:
    """Returns what two texts of one value share: `1e-3` and `0.001`, but not `1` and `true`."""
    value = literal(text)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return ("number" if number else type(value).__name__, value)


def _split(text: str) -> tuple[str, ...]:
    """Parts between commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for c in text:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        else:
            depth += (c in "([{") - (c in ")]}")
        if c == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += c
    return tuple(part.strip() for part in parts)


def _spaced(where: str, law: str, low: float, high: float, count: int) -> tuple[str, ...]:
    if count < 2:
        raise JaxptError(f"{where}: a range of {count} values; give 2 or more")
    numbers = np.geomspace(low, high, count) if law == "log" else np.linspace(low, high, count)
    if law != "int":
        return tuple(_text(float(x)) for x in numbers)
    return tuple(str(x) for x in dict.fromkeys(round(float(x)) for x in numbers))


def _text(number: float) -> str:
    return repr(float(f"{number:.{DIGITS}g}"))
