"""Which line of the user's own Python an error comes from: what a message shows instead of our internals."""

import linecache
import sysconfig
import traceback
from pathlib import Path

_OURS = Path(__file__).resolve().parents[1]
_NOT_THEIRS = (  # jaxpt, data_tools, the standard library, installed packages
    *(f"{folder}/" for folder in (_OURS, _OURS.with_name("data_tools"))),
    *(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",  # made while running
)


def users_line(error: BaseException) -> str:
    """Returns `"FILE:LINE: TEXT: "` for the innermost line of the user's files that `error` passed; "" for none.

    A file that Python cannot parse is named with the line where it stopped.
    """
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith(_NOT_THEIRS):
        return _shown(error.filename, error.lineno or 0)
    frames = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
    theirs = [
        f for f in frames if not f[0].startswith(_NOT_THEIRS) and not str(Path(f[0]).resolve()).startswith(_NOT_THEIRS)
    ]
    return _shown(*theirs[-1]) if theirs else ""


def reason(error: BaseException) -> str:
    """Returns what an error says, in one line: its kind and its words."""
    words = (error.msg if isinstance(error, SyntaxError) else str(error)).replace("\\n", " ")
    return f"{type(error).__name__}: {' '.join(words.split())}".rstrip(": ")


def _shown(file: str, line: int) -> str:
    text = linecache.getline(file, line).strip()
    here = Path.cwd()
    path = Path(file)
    name = path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
    return f"{name}:{line}: {text[:120]}: " if text else f"{name}:{line}: "
