"""Importance scores of a model's channels, neurons, heads and layers: what they are, and how they are kept on disk."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest, report_without_digests
from jaxpt.files.partial import whole_file
from jaxpt.models import ModelConfig
from jaxpt.reshape.target import lengths_of

# score -> axes of its array; "layers" is the Block Influence, "layers_loss" the loss change on removal
AXES: dict[str, tuple[str, ...]] = {
    "embed": ("embed",),
    "mlp": ("layers", "mlp"),
    "heads": ("layers", "heads"),
    "kv_heads": ("layers", "kv_heads"),
    "head_dim": ("layers", "kv_heads", "head_dim"),
    "experts": ("layers", "experts"),
    "experts_reap": ("layers", "experts"),
    "expert_mlp": ("layers", "experts", "expert_mlp"),
    "shared_mlp": ("layers", "shared_mlp"),
    "layers": ("layers",),
    "layers_loss": ("layers",),
    "layers_gain": ("layers",),
}


@dataclass(frozen=True, eq=False)
class Scores:
    """Importance by axis, larger meaning more important.

    `values`: float32 arrays by name, see `AXES`: `embed [D]`, `mlp [L, F]`, `heads [L, H]`, `kv_heads [L, K]`,
    `head_dim [L, K, h]` (dimensions of v and o), `layers [L]` (Block Influence), `layers_loss [L]` (loss change on
    removal, nats per token), `layers_gain [L]` (mean growth of the stream's norm through the layer; no importance);
    of mixtures also `experts [L, E]`, `experts_reap [L, E]` (mean over an expert's own tokens; data only),
    `expert_mlp [L, E, F]`, `shared_mlp [L, F]`; layers of the other kind are zero.
    `meta`: `method`, `data` (fingerprints, None for data-free), `tokens`, `flops`, aggregation.
    """

    values: Mapping[str, np.ndarray] = field(repr=False)
    meta: Mapping[str, Any]

    @property
    def data_free(self) -> bool:
        """Whether the scores come from the weights alone."""
        return self.meta.get("data") is None

    def get(self, name: str) -> np.ndarray:
        """Returns one score.

        Raises:
            JaxptError: it is not among these scores.
        """
        if name not in self.values:
            raise JaxptError(f"scores hold no {name!r} (they have {', '.join(self.values)}); score the model again")
        return self.values[name]

    def check(self, config: ModelConfig) -> None:
        """Raises a JaxptError if the arrays' shapes do not fit `config`, or a score is not a finite number."""
        size = lengths_of(config)
        for name, array in self.values.items():
            want = tuple(size.get(a, 0) for a in AXES[name])
            if array.shape != want:
                raise JaxptError(
                    f"scores.{name} has shape {array.shape}, the model needs {want}: made for another model"
                )
            if not np.isfinite(array).all():
                at = tuple(np.argwhere(~np.isfinite(array))[0])
                raise JaxptError(
                    f"scores.{name}[{', '.join(map(str, at))}] is {array[at]}, so nothing can be ranked by it; "
                    "look at the model's weights, or score in float32 (config.calibration.dtype)"
                )

    def save(self, path: str | Path) -> None:
        """Writes one `.npz` file; it appears under its name only when complete."""
        path = Path(path)
        partial = path.with_name(path.name + f".{os.getpid()}.partial")
        with whole_file(path, partial), open(partial, "wb") as file:
            meta = {**self.meta, "digest": _digest(self.values, self.meta)}
            arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta)), **self.values}
            np.savez(file, **arrays)

    @staticmethod
    def load(path: str | Path) -> "Scores":
        """Reads what `save` wrote.

        Raises:
            JaxptError: no such file, not a file of scores, or a damaged one.
        """
        if not Path(path).is_file():
            raise JaxptError(f"{path}: there is no file of scores")
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
            meta = dict(json.loads(str(values.pop("meta"))))
        except OSError as error:
            raise JaxptError(f"{path} cannot be read ({error.strerror or error}); score the model again") from error
        except Exception as error:  # zipfile and numpy raise many for a damaged archive
            raise JaxptError(f"{path} is not a file of scores: {error}; score the model again") from error
        digest = meta.pop("digest", None)
        if digest is None:
            report_without_digests(path)
        elif digest != _digest(values, meta):
            raise JaxptError(f"{path} is damaged: its scores are not what its digest says; score the model again")
        if odd := values.keys() - AXES.keys():
            raise JaxptError(f"{path} holds {min(odd)!r}, which is not a score: it is damaged; score the model again")
        return Scores(values, meta)


def _digest(values: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of all scores and what is said of them."""
    arrays = {name: [str(a.dtype), a.shape, hashlib.sha256(a.tobytes()).hexdigest()] for name, a in values.items()}
    return canonical_digest([arrays, dict(meta)])
