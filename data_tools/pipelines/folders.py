"""Which folders are a pipeline's own: a note in each says which pipeline and step made it; only such one is removed."""

import uuid
from pathlib import Path

from data_tools.io import ownership, storage
from jaxpt.errors import JaxptError


def note_of(workdir: str, name: str) -> str:
    """Returns the path of the note about the step `name`, which holds the step's key and whether it is done."""
    return storage.join(workdir, "steps", f"{name}.json")


def check_notes(workdir: str) -> None:
    """Refuses a workdir whose folder `steps` holds other files than a pipeline's notes, which would be written over.

    Raises:
        JaxptError: there is such a file.
    """
    folder = storage.join(workdir, "steps")
    names = [n for n in storage.list_all(folder) if not n.startswith(".") and not n.endswith(".tmp")]
    if "id" in (storage.read_json(note_of(workdir, "pipeline")) or ()):
        return
    for name in names:
        note = storage.read_json(storage.join(folder, name)) if name.endswith(".json") else None
        is_memo = (
            name == "files.json"
            and isinstance(note, dict)
            and all(isinstance(entry, dict) and "digest" in entry for entry in note.values())
        )
        if not is_memo and not (isinstance(note, dict) and {"key", "number", "argv"} <= note.keys()):
            raise JaxptError(f"{folder}/{name} is not a pipeline's note; take another --workdir, or move {folder} away")


def identity(workdir: str) -> str:
    """Returns the pipeline's id, drawn at its first run; it stays when the workdir is moved."""
    file = note_of(workdir, "pipeline")
    known = storage.read_json(file)
    if not isinstance(known, dict) or "id" not in known:
        known = {"id": uuid.uuid4().hex}
        storage.write_json(file, known)
    return known["id"]


def check_ours(folder: str, name: str, workdir: str, pipeline: str) -> None:
    """Refuses the folder of the step `name` where this pipeline did not make it.

    A folder without a note is known by `steps/NAME.json`, if that does not say that there was one: so it is with those
    of earlier versions, and with a packed source that was killed before its note.

    Raises:
        JaxptError: something else lies there.
    """
    place = Path(folder)
    if not place.is_symlink() and (not place.exists() or (place.is_dir() and not any(place.iterdir()))):
        return
    note = ownership.read_note(place) if place.is_dir() and not place.is_symlink() else None
    if note is not None:
        if (note.get("pipeline"), note.get("step")) == (pipeline, name):
            return
    elif not place.is_symlink():
        before = storage.read_json(note_of(workdir, name)) or {}
        if "key" in before and not before.get("noted"):
            return
    raise JaxptError(
        f"{folder} was not made by step {name} of this pipeline and would be removed; move it away, give the "
        f"step another name, or take another --workdir"
    )
