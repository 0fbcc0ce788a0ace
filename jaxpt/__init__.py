"""jaxpt: a language model of exactly the shape you want, out of one that exists, pretrained with few tokens.

import jaxpt
model  = jaxpt.load("PATH")                                   # bundle, run, checkpoint or Hugging Face directory
logits = jaxpt.forward(model.config, model.params, tokens)    # [B, S] int -> [B, S, V] float32
jaxpt.save(model, "BUNDLE")
"""

import importlib
from typing import Any

_PUBLIC = {"load": "api", "save": "api", "forward": "api", "Model": "api", "ModelConfig": "api"}
_ROOMS = ("data", "evaluation", "models", "reshape", "sharding", "tokenizers")

__all__ = sorted([*_PUBLIC, *_ROOMS])


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import jaxpt` is quick and starts no device."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"jaxpt.{_PUBLIC[name]}"), name)
    if name == "__version__":
        return importlib.import_module("jaxpt.cli.version").VERSION
    if name in _ROOMS:
        return importlib.import_module(f"jaxpt.{name}")
    raise AttributeError(f"module 'jaxpt' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
