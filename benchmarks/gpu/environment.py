"""The card and the versions that a row holds, and what is set before a backend starts."""

import datetime
import importlib.metadata
import os

TORCH = ("torch_attention", "torch_step")


def prepare(part: str) -> None:
    """Sets what must be set before JAX or torch start."""
    if part in TORCH:
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")


def facts(part: str) -> dict[str, str]:
    """The card, the versions of what computes, and the day."""
    if part in TORCH:
        import torch

        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        versions = {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())}
    else:
        import jax

        card = jax.devices()[0].device_kind
        versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    return {"card": card, **versions, "date": datetime.date.today().isoformat()}
