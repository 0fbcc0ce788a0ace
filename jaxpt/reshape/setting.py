"""What the transforms of a reshape may use: target, calibration data, scores, a seed, a folder, a line to print."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.models import Compute
from jaxpt.models.batch import Rows
from jaxpt.reshape.calibrate import Scoring, activation_scores
from jaxpt.reshape.data_config import CalibrationConfig
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.target import Target


@dataclasses.dataclass
class ReshapeSetting:
    """What the transforms may use.

    `batches` is the calibration data (empty: none), `data` what identifies it, `scores` those of the first model
    where they are stored, `on_scores` gets the first scores that are used, `folder` is a place for matrices larger
    than memory, `log` prints a line. `masks` are the final ones of the run that the model comes from, if it trained
    some (`jaxpt.reshape.masks`).
    """

    target: Target
    batches: Sequence[Rows[np.ndarray]] = ()
    data: Mapping[str, object] | None = None
    calibration: CalibrationConfig = dataclasses.field(default_factory=CalibrationConfig)
    scores: Scores | None = None
    on_scores: Callable[[Scores], None] | None = None
    folder: Path | None = None
    seed: int = 0
    masks: Mapping[str, np.ndarray] | None = None
    log: Callable[[str], None] = print

    @property
    def compute(self) -> Compute:
        """How forward passes are computed."""
        return Compute(dtype=self.calibration.dtype)

    @property
    def scoring(self) -> Scoring:
        """How scores are taken from data."""
        c = self.calibration
        return {
            "data": self.data,
            "over_sequence": c.over_sequence,
            "over_batch": c.over_batch,
            "removal": c.removal,
            "compute": self.compute,
        }

    @property
    def calibration_tokens(self) -> int:
        """Tokens of all calibration batches, padding included."""
        return sum(int(batch["tokens"].size) for batch in self.batches)

    def score(self, source: ModelSlices) -> Scores:
        """Returns stored scores, else scores from the data, else data-free ones, and says which."""
        stored = self.stored(source)
        if stored is not None:
            return stored
        if self.batches:
            self.log(f"scoring on {len(self.batches)} batches")
            return self.note(activation_scores(source, self.batches, **self.scoring))
        self.log("no calibration data: data-free scores (norms of the weights) are used")
        return self.note(weight_scores(source))

    def stored(self, source: ModelSlices) -> Scores | None:
        """Returns the stored scores, once: they are of the first model only."""
        if self.scores is None:
            return None
        scores, self.scores = self.scores, None
        scores.check(source.config)
        return self.note(scores)

    def note(self, scores: Scores) -> Scores:
        """Hands the first scores that are used to `on_scores`, and returns them."""
        on_scores, self.on_scores = self.on_scores, None
        if on_scores is not None:
            on_scores(scores)
        return scores

    def wanted(self, length: str, what: str) -> int:
        """Returns a length of the target that `what` cannot go without.

        Raises:
            JaxptError: the target leaves it as it is in the source.
        """
        value: int | None = getattr(self.target, length)
        if value is None:
            raise JaxptError(f"{what} needs target.{length}")
        return value

    def need_data(self, what: str) -> None:
        """Raises a JaxptError if there is no calibration data."""
        if not self.batches:
            raise JaxptError(f"{what} needs calibration data; set --config.calibration.sources")
