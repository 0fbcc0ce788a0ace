"""Causal attention over packed rows: one function, interchangeable implementations, each a file of this folder.

`dispatch.attention` is the function; `xla` is the reference that the others are compared with.
"""

from jaxpt.kernels.attention.call import Call, Logits, call_of
from jaxpt.kernels.attention.dispatch import IMPLEMENTATIONS, PREFERENCES, attention, choose, parse_preference

__all__ = ["IMPLEMENTATIONS", "PREFERENCES", "Call", "Logits", "attention", "call_of", "choose", "parse_preference"]
