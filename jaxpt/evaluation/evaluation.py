"""An evaluation: what a run measures of its model on the way, chosen by name, with options of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from jax.sharding import Mesh

from jaxpt.config.choice import Choice, option
from jaxpt.config.duration import parse_interval
from jaxpt.errors import JaxptError
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig
from jaxpt.models.params import Params
from jaxpt.tokenizers import Tokenizer

Measure = Callable[[int, Params], Mapping[str, float]]  # (finished steps, params) -> {name: value}


@dataclass(frozen=True)
class EvaluationSetting:
    """What is measured, and where: the model, the longest row it sees, its tokenizer, how it computes, its mesh.

    `workdir` is the run directory, for what an evaluation keeps there; `mesh` None: everything on one device; `entry`
    what the config calls the evaluation.
    """

    model: ModelConfig
    sequence_length: int
    tokenizer: Tokenizer | None
    compute: Compute
    workdir: Path
    mesh: Mesh | None = None
    entry: str = ""


class BestBy(NamedTuple):
    """The value by which the best checkpoint of each stage is kept, by its name below the entry's."""

    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Evaluation(Choice, kind="evaluation", room="jaxpt.evaluation", default="bits_per_byte"):
    """An entry of a run's `evaluations`: when it is measured; what, its own options and `prepare` say.

    The values of the entry ENTRY are logged as `eval/ENTRY/NAME` (see `prefix`). They are measured after the checkpoint
    of their step is on disk, and again where a run was killed while it measured.
    """

    failure_stops: ClassVar[bool] = True  # whether a run stops where it cannot be measured

    every: str | None = option(None, 'so often, as "500 steps" or "2M tokens"; None: not on the way')
    before: bool = option(True, "before the first step")
    after: bool = option(True, "after the last step")
    stage_ends: bool = option(False, "after the last step of each stage")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to measure."""
        return False

    @property
    def measured_by_run(self) -> bool:
        """Whether the run measures it itself."""
        return True

    def best_by(self) -> BestBy | None:
        """Returns by which value the best checkpoint of each stage is kept, None where none is."""
        return None

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option that cannot be; `where` is the entry's config key."""
        parse_interval(self.every, f"{where}.every")

    def check_inputs(self, where: str, tokenizer: Tokenizer | None) -> None:
        """Raises a JaxptError where something that is needed is missing, called before the run begins."""

    def prepare(self, setting: EvaluationSetting) -> Measure:
        """Returns what measures the parameters of `setting.model`; asked once for each model and sequence length.

        All hosts call what is returned at the same steps, with parameters sharded over `setting.mesh`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no prepare(setting)")


def prefix(entry: str) -> str:
    """Returns what the names of an entry's values begin with: `eval/bpb/` for `bits_per_byte`, else `eval/ENTRY/`."""
    return f"eval/{'bpb' if entry == 'bits_per_byte' else entry}/"


def entries_to_measure(where: str, entries: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Returns a config's entries, checked, without those that have nothing to measure.

    Raises:
        JaxptError: an option of an entry that cannot be, or two entries whose values have one name.
    """
    for name, entry in entries.items():
        entry.check(f"{where}.{name}")
    if {"bpb", "bits_per_byte"} <= entries.keys():
        raise JaxptError(f"{where}.bpb and {where}.bits_per_byte both log eval/bpb/…; give one another name")
    return {name: entry for name, entry in entries.items() if not entry.is_empty}


MOVED = {"evaluation": "evaluations.bits_per_byte"}  # of a run's config in earlier versions, which knew this one alone
