"""The one kind of error a person is meant to read: a single line that names the thing and the way out."""

from collections.abc import Iterable


class JaxptError(ValueError):
    """A mistake in what the user gave (a file, a key, a value), reported in one line.

    The commands print it without a traceback and exit with 1; library callers catch it like any `ValueError`.
    Message form: what is wrong, with the name and both values; then what to do about it.
    """


def nearest(name: str, known: Iterable[object]) -> str:
    """Returns `" (did you mean 'x'?)"` for the closest of `known` names, or an empty string.

    Args:
        name: what the user wrote.
        known: valid names.
    """
    import difflib

    close = difflib.get_close_matches(str(name)[:100], [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def short(value: object, limit: int = 80) -> str:
    """Returns `repr(value)` cut to `limit` characters, at any depth: for quoting a stranger's value."""
    import reprlib

    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = limit
    text = brief.repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
