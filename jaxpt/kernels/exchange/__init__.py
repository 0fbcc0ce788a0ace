"""Rows to the devices that hold their experts, and back: one function, interchangeable implementations, each a file of
this folder.

`dispatch.exchange` is the function; `comparison` holds an implementation against what is computed without travelling.
"""

from jaxpt.kernels.exchange.call import Arrived, ExchangeCall
from jaxpt.kernels.exchange.dispatch import IMPLEMENTATIONS, PREFERENCES, choose, exchange, parse_preference

__all__ = ["IMPLEMENTATIONS", "PREFERENCES", "Arrived", "ExchangeCall", "choose", "exchange", "parse_preference"]
