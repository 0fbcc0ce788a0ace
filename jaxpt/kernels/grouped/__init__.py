"""Each row times the matrix of its group, what the experts of a dropless mixture compute: one function,
interchangeable implementations, each a file of this folder.

`dispatch.grouped_matmul` is the function; `dense` is the reference that the others are compared with.
"""

from jaxpt.kernels.grouped.call import GroupedCall
from jaxpt.kernels.grouped.dispatch import IMPLEMENTATIONS, PREFERENCES, choose, grouped_matmul, parse_preference

__all__ = ["IMPLEMENTATIONS", "PREFERENCES", "GroupedCall", "choose", "grouped_matmul", "parse_preference"]
