"""What came of a trial: noticed, harmless, silent, a wrong refusal, a traceback, or a process that hangs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.attack.children import Outcome

VERDICTS = ("noticed", "harmless", "silent", "wrong refusal", "traceback", "hang")
BAD = VERDICTS[2:]
FALL_BACK = ("damaged", "set aside")  # how a fall-back to something earlier is reported


@dataclass(frozen=True)
class Trial:
    """One trial: the row of the table that it counts in, what was done, and what came of it."""

    kind: str
    what: str
    verdict: str
    reason: str = ""


def failed(outcome: Outcome, stopped: bool = False) -> str | None:
    """Returns "hang" or "traceback" where a child ended so, else None. `stopped`: by a signal of ours."""
    if outcome.hung:
        return "hang"
    if "Traceback (most recent call last)" in outcome.err or (outcome.code < 0 and not stopped):
        return "traceback"
    return None


def judge(outcome: Outcome, answer: Any) -> str:
    """Judges a reader, or a command that was run on something damaged, by the answer of an undisturbed one.

    A refusal, or a fall-back that is reported and ends with the same answer, is "noticed".
    """
    if bad := failed(outcome):
        return bad
    if outcome.code:
        return "noticed" if outcome.reason else "silent"
    if outcome.answer != answer:
        return "silent"
    return "noticed" if any(word in outcome.text for word in FALL_BACK) else "harmless"


def counts(trials: Iterable[Trial]) -> list[list[Any]]:
    """Returns a row per kind, in order of appearance: kind, tried, and one count per verdict; last, the sum."""
    trials = list(trials)
    rows: list[list[Any]] = []
    for kind in [*dict.fromkeys(t.kind for t in trials), None]:
        of = Counter(t.verdict for t in trials if kind in (None, t.kind))
        rows.append([kind or "all", sum(of.values()), *(of[v] for v in VERDICTS)])
    return rows
