"""A pipeline as its config states it: raw text and the steps that it goes through."""

from dataclasses import dataclass
from typing import Any

from data_tools.pipelines.step import DataStep
from jaxpt.config.choice import option, options_of


@dataclass(frozen=True)
class PipelineStep:
    """One step: a command of `jaxpt-data`, its folder's name (default: the command's), its inputs and its options.

    `command` may also be `package.module:Class`, a data step of the user's own. `inputs` names earlier steps, or paths;
    by default a step reads what the one before it wrote, the first the pipeline's input.
    A text among the options may hold `{NAME}`, the folder of an earlier step. A step that is `only_with` a key of the
    pipeline is left out where that key is not set, and a line says so.
    """

    command: str = option(doc="a command of jaxpt-data, or package.module:Class")
    name: str = option("", "of the step and its folder (default: the command's)")
    inputs: tuple[str, ...] = option((), "names of earlier steps, or paths (default: the step before, or the input)")
    options: dict[str, Any] = options_of(DataStep, "command", "those of the command")
    only_with: str = option("", "a key of the pipeline without which the step is left out, for instance eval")


@dataclass(frozen=True)
class Pipeline:
    """Steps from raw text on; all keys but `input` and `steps` go to every step with an option of that name."""

    input: str = option(doc="globs of raw text, comma-separated")
    steps: tuple[PipelineStep, ...] = option(doc="in order")
    text_field: str = option("text", "of records: where the text is")
    tokenizer: str | None = option(None, "directory, .model or tokenizer.json")
    eval: str | None = option(None, "evaluation sets that must not be in the text")
    workers: int = option(0, "processes; 0: one per core")
    alarm: float = option(0.5, "a source that loses more than this share is warned of")
    quarantine_limit: float | None = option(None, "share in quarantine above which a step fails (default: the step's)")
    largest_record: int | None = option(
        None, "bytes of a record; a longer one goes to quarantine (default: the step's)"
    )
    largest_page: int | None = option(None, "bytes of a page of Parquet, likewise")
    deepest_json: int | None = option(None, "lists and objects of a record in each other, likewise")
    deepest_html: int | None = option(None, "elements of a web page in each other, likewise")
