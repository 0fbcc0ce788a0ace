"""Names that become a folder or a file: one path component each."""

from collections.abc import Collection

from jaxpt.errors import JaxptError

LONGEST = 200  # bytes; file systems take 255, and names get suffixes
SEPARATORS = "/\\"


def path_component(name: str, where: str, reserved: Collection[str] = ()) -> str:
    """Returns `name` if it can only ever be the name of one file or folder, right where it is put.

    Args:
        name: as the user wrote it.
        where: the config key or flag, for the message.
        reserved: names that are in use there.

    Raises:
        JaxptError: it is empty or too long, holds a separator or a control character, begins with a dot or a hyphen,
            begins or ends with white space, or is reserved.
    """
    wrong = None
    if not name:
        wrong = "is empty"
    elif any(c in name for c in SEPARATORS):
        wrong = "holds a / or \\, so that it would lead into another folder"
    elif name[0] in ".-":
        wrong = f"begins with {name[0]!r}"
    elif name != name.strip() or not name.isprintable():
        wrong = "holds white space at an end, or a character that cannot be printed"
    elif len(name.encode("utf-8", "replace")) > LONGEST:
        wrong = f"is longer than {LONGEST} bytes"
    elif name in reserved:
        wrong = "is taken"
    if wrong:
        raise JaxptError(f"{where}: the name {name!r} {wrong}; give another name, of letters, digits, _ . and -")
    return name
