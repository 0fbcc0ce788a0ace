"""The masks of a run as pictures: layers × heads, layers × neurons, from its newest checkpoint."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from jaxpt.checkpoints.checkpoints import finished_steps
from jaxpt.errors import JaxptError
from jaxpt.reshape.masks import HostGates
from jaxpt.training.learned_masks import learned_masks

TITLES = {
    "layers": "layers",
    "kv_heads": "layers × kv heads",
    "heads": "layers × heads",
    "mlp": "layers × neurons",
    "experts": "layers × experts",
    "expert_mlp": "layers and experts × neurons",
    "shared_mlp": "layers × neurons of the shared experts",
    "embed": "channels of the stream",
}
SHADES = LinearSegmentedColormap.from_list("kept", ["#f0f0f0", "#1f4e79"])  # legible when a dark page inverts it


def mask_pictures(run: Path) -> dict[str, Figure]:
    """Returns a figure for each axis of the run's masks, by name; none where its newest checkpoint has no masks."""
    steps = finished_steps(run)
    try:
        masks = learned_masks(run, steps[-1]) if steps else None
    except JaxptError:
        return {}
    return {} if masks is None else draw(masks.soft, masks.final)


def draw(soft: HostGates, final: HostGates) -> dict[str, Figure]:
    """Returns, for each axis, soft gates above and the final mask below, one row per layer."""
    out = {}
    for axis, title in TITLES.items():
        if axis not in soft:
            continue
        rows = [np.asarray(m[axis]) for m in (soft, final)]
        rows = [r.reshape(-1, r.shape[-1]) if r.ndim > 1 else r[None] for r in rows]
        height = min(4.0, 0.8 + 0.16 * len(rows[0]))
        figure, axes = plt.subplots(2, 1, figsize=(7.2, 2 * height), layout="constrained", sharex=True)
        image = axes[0].imshow(rows[0], aspect="auto", interpolation="nearest", vmin=0, cmap=SHADES)
        figure.colorbar(image, ax=axes[0], label="gate")
        axes[1].imshow(rows[1] > 0, aspect="auto", interpolation="nearest", vmin=0, vmax=1, cmap=SHADES)
        axes[0].set_title(f"masks: {title}; soft, and below what would be left")
        for ax in axes:
            ax.set_ylabel("layer" if np.asarray(soft[axis]).ndim > 1 else "")
            ax.locator_params(integer=True)
            if len(rows[0]) == 1:
                ax.set_yticks([])
        axes[1].set_xlabel(axis)
        out[f"masks_{axis}"] = figure
    return out
