"""The products of a layer's streams with its matrices: one function, interchangeable implementations, each a file.

`dispatch.matmul` is the function; `plain`, in the compute dtype, is what every platform takes unless another is named.
"""

from jaxpt.kernels.matmul.call import MatmulCall
from jaxpt.kernels.matmul.dispatch import IMPLEMENTATIONS, PREFERENCES, choose, matmul, parse_preference

__all__ = ["IMPLEMENTATIONS", "PREFERENCES", "MatmulCall", "choose", "matmul", "parse_preference"]
