"""Leave it to a person."""

from dataclasses import dataclass

from jaxpt.training.recovery import Recovery


@dataclass(frozen=True)
class Stop(Recovery):
    """The run stops at a value that is not finite, in a line that says how to go back; spikes are only counted."""
