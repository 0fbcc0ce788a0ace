"""Pictures of importance scores for a person to look at: sorted curves per layer, maps of layers × heads, bars."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxpt.reshape.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

TITLES = {
    "embed": "residual channels",
    "mlp": "FFN neurons",
    "heads": "query heads",
    "kv_heads": "kv heads",
    "experts": "experts",
    "experts_reap": "experts by the mean over their own tokens (REAP)",
    "shared_mlp": "neurons of the shared experts",
    "layers": "layers: Block Influence, 1 − cos(stream before, after)",
    "layers_loss": "layers: loss change on removal, nats per token",
}


def draw_scores(scores: Scores, folder: str | Path) -> list[Path]:
    """Writes one PNG per score into `folder` and returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for name, title in TITLES.items():
        if name not in scores.values:
            continue
        value = scores.values[name]
        figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
        if name in ("heads", "kv_heads", "experts", "experts_reap"):
            _map(figure, ax, value, title)
        elif name.startswith("layers"):
            ax.bar(np.arange(len(value)), value, color="#3b6ea5")
            ax.set(xlabel="layer", ylabel="score")
        else:
            _curves(figure, ax, np.atleast_2d(value), plt.get_cmap("viridis"))
        basis = "weights alone" if scores.data_free else f"{scores.meta['tokens']:,} tokens"
        ax.set_title(f"{title} ({basis})", fontsize=10)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        out.append(path)
    return out


def _map(figure: "Figure", ax: "Axes", value: np.ndarray, title: str) -> None:
    image = ax.imshow(value, aspect="auto", cmap="viridis", interpolation="nearest")
    ax.set(xlabel=title.removesuffix("s"), ylabel="layer")
    ax.locator_params(integer=True)
    figure.colorbar(image, ax=ax, label="score")


def _curves(figure: "Figure", ax: "Axes", rows: np.ndarray, colors: "Colormap") -> None:
    for l, row in enumerate(rows):
        ax.plot(np.sort(row)[::-1], color=colors(l / max(1, len(rows) - 1)), lw=1)
    ax.set(xlabel="rank", ylabel="score", yscale="log" if rows.min() > 0 else "linear")
    if len(rows) > 1:
        import matplotlib as mpl

        shades = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, len(rows) - 1), colors)
        figure.colorbar(shades, ax=ax, label="layer")
