"""Packed sources, exact mixtures, the ledger of what was used, and the loader."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxpt.data.loader import Loader
    from jaxpt.data.packed import PackedSource, PackedWriter
    from jaxpt.data.weights import StageData

__all__ = ["Loader", "PackedSource", "PackedWriter", "StageData"]

_ROOM = {"Loader": "loader", "PackedSource": "packed", "PackedWriter": "packed", "StageData": "weights"}


def __getattr__(name: str) -> Any:
    """Imports on first use: the loader brings JAX, which preparing text does not need."""
    if name in _ROOM:
        return getattr(importlib.import_module(f"jaxpt.data.{_ROOM[name]}"), name)
    raise AttributeError(f"module 'jaxpt.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
