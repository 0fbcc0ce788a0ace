"""What jaxpt takes of tokamax is private to it, and moves from version to version: exactly one is right."""

from collections.abc import Callable
from typing import Any

from jaxpt.kernels.machine import written

TOKAMAX = (0, 0, 17)


def wrong_version(found: tuple[int, ...] | None) -> str | None:
    """Returns why the installed version (None: there is none) does not do, None where it does."""
    if found is None:
        return f"tokamax {written(TOKAMAX)} is not installed (pip install 'jaxpt[gpu]', Python 3.12 or newer)"
    return None if found == TOKAMAX else f"it needs tokamax {written(TOKAMAX)}, {written(found)} is installed"


def import_error(load: Callable[[], Any]) -> str | None:
    """Returns why `load`, which imports parts of tokamax, fails; None where it does not."""
    try:
        load()
    except Exception as e:  # a package of its own kinds of errors, and of many dependencies
        return f"tokamax cannot be imported ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''})"
    return None
