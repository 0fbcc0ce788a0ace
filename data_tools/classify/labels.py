"""The labels of records as fastText can hold them: one word each, and never two labels under one word."""

import math

from jaxpt.errors import JaxptError


class LabelNames:
    """Gives labels their names, and refuses two that would become one."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str | float, str]] = {}  # label and its record, by name

    def name(self, value: object, record: str) -> str:
        """Returns the name of a record's label: its text with white space as "_", none at its ends.

        Args:
            value: the label; a text, a number, true or false.
            record: which record has it, for messages.

        Raises:
            JaxptError: a label that is empty or of another type, or one whose name is that of another label.
        """
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            kind = {"list": "a list", "dict": "an object"}.get(type(value).__name__, repr(value))
            raise JaxptError(f"{record} has {kind} as label; a label is one text, number, true or false")
        label = " ".join(value.split()) if isinstance(value, str) else value  # real sets hold "ham" and " ham"
        name = str(label).replace(" ", "_")
        if not name:
            raise JaxptError(f"{record} has an empty label")
        first, where = self._first.setdefault(name, (label, record))
        if (type(first), first) != (type(label), label):
            raise JaxptError(
                f"labels {first!r} ({where}) and {label!r} ({record}) would both be called {name!r}; write one of them "
                "differently, or the same where they mean the same"
            )
        return name
