"""A data step: text in, text or packed rows out. Its fields are its flags, its options in a pipeline, and its key."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from data_tools.pipelines import flags
from jaxpt.cli.dispatch import first_line
from jaxpt.config.choice import Choice, name_of, option
from jaxpt.config.hints import Value


@dataclass(frozen=True)
class DataStep(Choice, kind="data step", room="data_tools.commands"):
    """What every data step inherits, as a frozen dataclass in a file of its own; the file's name is its command.

    An option that never changes what is written (`workers`) says so: `option(1, "…", changes_output=False)`. It is
    left out of the step's key, so that a finished step stays finished. An option whose name is a field of `Pipeline`
    (`text_field`, `workers`, …) is given to the step by the pipeline.
    """

    example: ClassVar[str] = ""  # how the command is called, for its help

    input: str = option(doc="files, folders or globs that are read, comma-separated")
    output: str = option(doc="folder that is written")

    def run(self) -> None:
        """Does the whole job; run again after it was killed, it goes on.

        Raises:
            JaxptError: a mistake of the user's.
        """
        raise NotImplementedError(f"{self.name} has no run()")

    def in_pipeline(self) -> Self:
        """Returns the step as a pipeline runs it, where it may find its own output of before."""
        return self

    @property
    def makes_folder_itself(self) -> bool:
        """Whether `output` must not exist before the step has ended."""
        return False

    @classmethod
    def summary(cls) -> str:
        """Returns what the step does: the first line of its docstring."""
        return first_line(cls.__doc__ or "")

    @classmethod
    def main(cls, argv: Sequence[str]) -> int:
        """Runs the step that a command line states; returns 0 when the job is done."""
        flags.parse(cls, argv, f"jaxpt-data {name_of(cls)}", cls.summary(), cls.example).run()
        return 0

    @classmethod
    def of_today(cls, values: Mapping[str, Value]) -> dict[str, Value]:
        """Returns options in their own types as a config may also write them; None leaves an option out."""
        hints = typing.get_type_hints(cls)
        known = {field.name for field in fields(cls)}
        return {
            key: flags.as_flag(hints[key], values[key]) if key in known else values[key]
            for key in values
            if values[key] is not None
        }
