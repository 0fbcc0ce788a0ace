"""What is said of a path that is not there: where it was looked for, what lies near it, and what it may be instead."""

import re
from pathlib import Path

from jaxpt.errors import nearest

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def absent(path: str | Path) -> str:
    """Returns `"does not exist"` with, for a relative path, the folder that it is relative to and the nearest name.

    A relative path is relative to the folder in which the command runs, whichever file names it.
    """
    path = Path(path)
    try:
        beside = nearest(path.name, [p.name for p in path.parent.iterdir()][:10_000]) if path.parent.is_dir() else ""
    except OSError:
        beside = ""
    looked = "" if path.is_absolute() else f" in {Path.cwd()}, the folder that it is relative to"
    return f"does not exist{looked}{beside}"


def absent_model(path: str | Path) -> str:
    """Likewise of a model; of what looks like a name on the Hugging Face hub how to get a folder from it."""
    text = str(path)
    if _HUB_NAME.fullmatch(text) and not Path(text).parent.exists():
        return (
            f"is no folder here; as a name on the Hugging Face hub it must be downloaded first, jaxpt fetches nothing: "
            f"hf download {text} --local-dir {text.rpartition('/')[2]}, and give that folder"
        )
    return absent(path)
