"""Rows of results: each is printed and appended to a file when it is measured, so that a cut leaves what was done."""

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Rows:
    """Results of one process; `facts` (card, versions) stand in every row; `deadline` is of `time.monotonic`."""

    out: Path | None
    section: str
    deadline: float
    facts: dict[str, Any] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def add(self, name: str, **values: Any) -> None:
        """Prints one row and appends it."""
        at = round(time.monotonic() - self.begun, 1)
        row = {"section": self.section, "name": name, **values, "at_s": at, **self.facts}
        if self.out is not None:
            with open(self.out, "a") as file:
                file.write(json.dumps(row) + "\n")
        shown = "  ".join(f"{key} {_short(value)}" for key, value in values.items())
        print(f"[{at:6.1f} s] {self.section} | {name} | {shown}", flush=True)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def measure(self, name: str, needs: float, one: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Adds the row that `one` gives; where it fails, or fewer than `needs` seconds are left, a row that says so."""
        if self.left() < needs:
            self.add(name, not_run=f"{self.left():.0f} s left, it needs about {needs:.0f}")
            return None
        try:
            values = one()
        except Exception as error:  # whatever a library raises: the other rows are still wanted
            self.add(name, failed=_first_line(error))
            if not _is_refusal(error):
                print("".join(traceback.format_exception(error, limit=-6))[:3000], flush=True)
            return None
        self.add(name, **values)
        return values

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds a row with the seconds that were spent inside."""
        begun = time.monotonic()
        yield
        self.add(name, seconds=time.monotonic() - begun)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300] if text else ''}"


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or type(error).__name__ in ("JaxptError", "OutOfMemoryError")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
