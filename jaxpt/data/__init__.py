"""Packed sources, exact mixtures, the ledger of what was used, and the loader."""

from jaxpt.data.loader import Loader
from jaxpt.data.packed import PackedSource, PackedWriter
from jaxpt.data.weights import StageData

__all__ = ["Loader", "PackedSource", "PackedWriter", "StageData"]
