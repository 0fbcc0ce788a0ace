"""Realised shares of 17 real sources over 10,000 batches of short rows: loader only, counted from what it delivers.

    python -m benchmarks.mixture --data=TEXT --folder=SCRATCH --picture=shares.png

TEXT is a folder of JSONL files, named below. Two sources have the awkward weights 0.03 and 1/3, the rest share by size.
Half-way the batch size changes from 31 to 64 rows. Sources too small for the run are repeated as the budget says.
The share of a source after every batch is compared with its weight; the picture shows both, and their distance in rows.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np

from jaxpt import tokenizers
from jaxpt.cli.terminal import progress, table
from jaxpt.data import Loader, PackedSource, StageData, budget
from jaxpt.data.build import build
from jaxpt.data.weights import flat_weights

LENGTH = 64
FILES = (
    "chinese/d2l_zh_md",
    "chinese/javaguide_md",
    "chinese/poetry_tang_song",
    "code/repos",
    "english/us_presidential_addresses",
    "labelled/ag_news_test",
    "labelled/thucnews_titles",
    "math/gsm8k_train",
    "math/hendrycks_math_test",
    "math/svamp_mawps_mathqa",
    "noisy_web/c4_demo",
    "noisy_web/redpajama_c4-rp_1",
    "domain_mix/redpajama_github_1",
    "domain_mix/redpajama_stackexchange_1",
    "domain_mix/redpajama_arxiv_1",
    "sft/alpaca_en_demo",
    "synthetic/persona_hub_tools_even",
)
FIXED = {"gsm8k_train": 0.03, "repos": 1 / 3}


def make(data: Path, folder: Path) -> dict[str, PackedSource]:
    """Packs the files unless they are packed."""
    tokenizer = tokenizers.load(data / "tokenizers" / "llama_style")
    out = {}
    with progress(len(FILES), "pack", "source") as bar:
        for file in FILES:
            path = folder / Path(file).name
            if not path.exists():
                build(str(data / f"{file}.jsonl.gz"), path, tokenizer, LENGTH)
            out[path.name] = PackedSource.open(path)
            bar.update()
    return out


def walk(loader: Loader, steps: int) -> tuple[np.ndarray, int]:
    """Returns rows of each source after each batch, `[steps, sources]`, and how many rows came twice in one epoch."""
    counts = np.zeros((steps, len(loader.sources)), np.int64)
    given = [np.zeros(s.rows, np.int64) for s in loader.sources.values()]
    with progress(steps, "load", "batch") as bar:
        for step, batch in loader.iterate(0):
            counts[step] = np.bincount(batch["source_id"], minlength=counts.shape[1])
            for i in np.unique(batch["source_id"]):
                np.add.at(given[i], batch["row_id"][batch["source_id"] == i], 1)
            bar.update()
    total = counts.sum(axis=0)
    twice = sum(int((g > math.ceil(n / s.rows)).sum()) for g, n, s in zip(given, total, loader.sources.values()))
    return counts.cumsum(axis=0), twice


def picture(path: Path, names: list[str], shares: np.ndarray, weights: np.ndarray, away: np.ndarray) -> None:
    """Draws realised and wanted shares, and their distance in rows, over the batches."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 6))
    steps = np.arange(1, len(shares) + 1)
    colors = plt.get_cmap("tab20")(np.arange(len(names)))
    for i in np.argsort(-weights):
        left.plot(steps, shares[:, i], color=colors[i], lw=1.5, label=f"{names[i]} {weights[i]:.4f}")
        left.axhline(weights[i], color=colors[i], ls="--", lw=0.6)
        right.plot(steps[::20], away[::20, i], color=colors[i], lw=0.5)
    left.set(xscale="log", yscale="log", xlabel="batches", ylabel="share of rows so far", title="shares: wanted dashed")
    right.set(xlabel="batches", ylabel="rows ahead of the share", title="distance from the share, in rows")
    for y in (-1, 1):
        right.axhline(y, color="black", lw=1, ls=":")
    left.legend(fontsize=7, ncol=2, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Packs, loads, counts, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--batches", type=int, default=10_000)
    args = parser.parse_args()
    sources = make(args.data, args.folder)
    mixture = dict.fromkeys(sources, "size") | FIXED
    weights = flat_weights(mixture, {n: s.rows for n, s in sources.items()})
    half = args.batches // 2
    stages = [StageData(0, half, 31, LENGTH, weights), StageData(half, args.batches - half, 64, LENGTH, weights)]
    plan = Loader(sources, stages)
    needed = budget.budget(plan.log, plan.orders, plan.limits, plan.steps)
    repeat = {line.name: max(1, math.ceil(line.needed / line.rows)) for line in needed}
    loader = Loader(sources, stages, repeat=repeat)
    lines = budget.budget(loader.log, loader.orders, loader.limits, loader.steps)
    print(budget.show(lines))
    budget.check(lines)
    began = time.perf_counter()
    counts, twice = walk(loader, args.batches)
    seconds = time.perf_counter() - began
    rows = counts.sum(axis=1, keepdims=True)
    wanted = np.array(list(weights.values()))
    away = counts - wanted * rows
    worst = np.abs(away).max(axis=0)
    body = [
        [n, w, int(c), float(c / rows[-1, 0]), float(d)]
        for n, w, c, d in zip(sources, weights.values(), counts[-1], worst)
    ]
    print(table(["source", "weight", "rows", "share", "worst distance in rows"], body))
    print(f"{args.batches:,} batches, {int(rows[-1, 0]):,} rows in {seconds:.0f} s; rows too often: {twice}")
    print(f"largest distance after any batch: {worst.max():.4f} rows")
    if args.picture:
        picture(args.picture, list(sources), counts / rows, wanted, away)
        print(args.picture)


if __name__ == "__main__":
    main()
