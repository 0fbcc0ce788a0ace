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

    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
