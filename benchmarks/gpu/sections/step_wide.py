"""The train step of a model of as many parameters in fewer, wider layers."""

import dataclasses

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.sections import step
from benchmarks.gpu.sizes import FULL, WIDE, Sizes


def measure(sizes: Sizes, rows: Rows) -> None:
    """As `sections.step`, for this shape."""
    step.measure(dataclasses.replace(sizes, model=WIDE) if sizes == FULL else sizes, rows)
