"""Run what is not done of a pipeline. `steps/NAME.json` holds the key under which a step's folder was begun."""

from collections.abc import Sequence

from data_tools.io import ownership, storage
from data_tools.pipelines import folders
from data_tools.pipelines.planning import PlannedStep


def state(step: PlannedStep, workdir: str) -> str:
    """Returns "done", "begun", or "to do" (also where the step was done with other options or inputs)."""
    note = storage.read_json(folders.note_of(workdir, step.name)) or {}
    if note.get("key") != step.key:
        return "to do"
    return "done" if note.get("done") else "begun"


def run(steps: Sequence[PlannedStep], workdir: str) -> None:
    """Runs what is not done. A step begun with the same key goes on; what another key left is removed first.

    Raises:
        JaxptError: a step failed, or its folder holds what this pipeline did not make.
    """
    pipeline = folders.identity(workdir)
    for step in steps:
        if state(step, workdir) != "done":
            folders.check_ours(step.folder, step.name, workdir, pipeline)  # before hours of earlier steps
    for number, step in enumerate(steps):
        before = state(step, workdir)
        if before != "done":
            _run(step, number, before, workdir, pipeline)


def _run(step: PlannedStep, number: int, before: str, workdir: str, pipeline: str) -> None:
    """Runs one step, which `before` was "begun" or "to do"; notes that it began, and that it is done."""
    mark = {"pipeline": pipeline, "step": step.name, "command": step.command}
    facts = {"key": step.key, "number": number, "argv": step.argv}
    note = folders.note_of(workdir, step.name)
    folders.check_ours(step.folder, step.name, workdir, pipeline)
    if before == "to do":
        storage.remove(step.folder)
    marked = not step.step.makes_folder_itself
    if marked:
        ownership.add_to_note(step.folder, mark)
    storage.write_json(note, {**facts, "noted": marked, "done": False})
    print(f"== {step.name}: jaxpt-data {step.command} {' '.join(step.argv)}", flush=True)
    step.step.run()
    ownership.add_to_note(step.folder, mark)
    storage.write_json(note, {**facts, "noted": True, "done": True})
