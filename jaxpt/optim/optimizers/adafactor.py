"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235, algorithm 4), of optax's pieces."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import optax

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.specs import ParamSpec, Specs, flatten
from jaxpt.optim.matrices import as_matrices, matrix_dims
from jaxpt.optim.optimizer import Optimizer, fraction, positive


@dataclass(frozen=True)
class Adafactor(Optimizer):
    """The second moment of a matrix is kept as a mean for each row and each column.

    Rows and columns are those of fan in and fan out: `[embed, heads, head_dim]` has `embed` rows.
    """

    decay_rate: float = option(0.8, "the second moment's decay rate at step t is 1 - t^-decay_rate")
    smallest: int = option(128, "matrices with fewer rows or columns keep a whole second moment")
    clip_rms: float | None = option(1.0, "limit of an update's root mean square, per matrix; None: no limit")
    momentum: float | None = option(None, "decay rate of a mean of updates; None: none is kept")
    by_parameter_scale: bool = option(False, "multiply by the parameter's root mean square (then lr is about 1e-2)")

    moments: ClassVar[Mapping[str, int]] = {}

    def core(self, specs: Specs) -> optax.GradientTransformation:
        """State `{count, v_row, v_col, v}`; with momentum `ema` and a count of its own."""
        (spec,) = flatten(specs).values()
        rms = optax.scale_by_factored_rms(decay_rate=self.decay_rate, min_dim_size_to_factor=self.smallest)
        stages = [as_matrices(rms, matrix_dims(spec)) if self._is_viewed(spec) else rms]
        if self.clip_rms is not None:
            stages.append(optax.clip_by_block_rms(self.clip_rms))
        if self.by_parameter_scale:
            stages.append(optax.scale_by_param_block_rms())
        if self.momentum is not None:
            stages.append(optax.ema(self.momentum, debias=False))
        return optax.chain(*stages)

    def state_axes(self, name: str, spec: ParamSpec) -> tuple[str | None, ...] | None:
        """Rows and columns of several axes follow the first of them."""
        if name not in ("v_row", "v_col", "v") or not self._is_viewed(spec):
            return None
        if name == "v":
            return (None,)
        dims = matrix_dims(spec)
        rows, columns = spec.axes[dims.reduction[0]], spec.axes[dims.output[0]]
        of_rows = (name == "v_row") == (dims.fan_in <= dims.fan_out)  # v_row is optax's name for the shorter side
        return (rows if of_rows else columns,)

    def _is_viewed(self, spec: ParamSpec) -> bool:
        """Whether a piece is factored as a matrix of fan in and fan out."""
        if not spec.fan_in_axes or not spec.fan_out_axes:
            return False
        dims = matrix_dims(spec)
        return not dims.batch and min(dims.fan_in, dims.fan_out) >= self.smallest

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option out of range."""
        super().check(where)
        positive(f"{where}.decay_rate", self.decay_rate)
        if self.smallest < 2:
            raise JaxptError(f"{where}.smallest is {self.smallest}, it must be at least 2")
        if self.clip_rms is not None:
            positive(f"{where}.clip_rms", self.clip_rms)
        if self.momentum is not None:
            fraction(f"{where}.momentum", self.momentum)
