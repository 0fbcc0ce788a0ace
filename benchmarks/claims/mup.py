"""Does the best learning rate stay as the model gets wider? µP and standard parameterisation, AdamW and Muon.

Text is made in place: each token depends on the two before it through random tables, so that a model has something to
learn at every width. Each run has a warmup and a full decay; each width's best rate is a parabola's through the three
points around the lowest loss. Writes OPTIMIZER.png and OPTIMIZER.json into --folder.

python -m benchmarks.claims.mup --folder=runs/mup --widths=64,128,256,512 --steps=300
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxpt.cli.terminal import progress, table
from jaxpt.config.schema import build
from jaxpt.models import ModelConfig, uniform_layers
from jaxpt.models.mup import BaseShape, MupConfig
from jaxpt.optim.optimizer import Optimizer
from jaxpt.planning.sweep import Sweep, sweep
from jaxpt.planning.widths import PARAMETERISATIONS, at_width
from jaxpt.reporting.widths import draw_sweep

DEFAULT = "adamw;muon,scale=shape;muon,scale=rms"


def text(a: argparse.Namespace) -> Callable[[int], Mapping[str, np.ndarray]]:
    """Rows of each step: the next token is that of one of two tables of the last two tokens, or any (one in ten)."""
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, a.vocab, (2, a.vocab, 4))
    positions = np.broadcast_to(np.arange(a.length, dtype=np.int32), (a.batch, a.length))
    rest = {"segment_ids": np.ones((a.batch, a.length), np.int32), "positions": positions}

    def rows(step: int) -> Mapping[str, np.ndarray]:
        draw = np.random.default_rng((1, step))
        tokens = draw.integers(0, a.vocab, (a.batch, a.length + 1))
        which, noise = draw.integers(0, 4, tokens.shape), draw.random(tokens.shape)
        for t in range(2, a.length + 1):
            follow = np.where(noise[:, t] < 0.5, one[tokens[:, t - 1], which[:, t] // 2], two[tokens[:, t - 2], 0])
            tokens[:, t] = np.where(noise[:, t] < 0.9, follow, tokens[:, t])
        tokens = tokens.astype(np.int32)
        weights = np.ones((a.batch, a.length), np.float32)
        return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "loss_weights": weights, **rest}

    kept = [rows(step) for step in range(a.steps)]
    return kept.__getitem__


def optimizer_of(name: str, weight_decay: float) -> Optimizer:
    """The optimizer that NAME or NAME,KEY=VALUE,… describes."""
    name, *options = name.split(",")
    values = {key: _value(value) for key, _, value in (o.partition("=") for o in options)}
    return build(Optimizer, {"name": name, "weight_decay": weight_decay, **values}, "--optimizers")


def measure(name: str, a: argparse.Namespace) -> dict[str, Sweep]:
    """The sweep of one optimizer (NAME, or NAME,KEY=VALUE,… with its options), in both parameterisations."""
    optimizer = optimizer_of(name, a.weight_decay)
    base = a.widths[0]
    mup = MupConfig(BaseShape(embed=base, heads=base // a.head_dim, mlp=2 * base, layers=a.layers))
    heads = base // a.head_dim
    model = ModelConfig(a.vocab, base, heads, heads, a.head_dim, 2 * base, uniform_layers(a.layers))
    batch, found = text(a), {}
    with progress(2 * len(a.widths) * len(a.rates) * a.seeds, name, "run") as bar:
        for kind in PARAMETERISATIONS:
            models = [at_width(model, mup, width, a.layers, kind) for width in a.widths]
            found[kind] = sweep(models, optimizer, batch, a.steps, a.rates, range(a.seeds), done=bar.update)
            write(name, found, a.folder)
    return found


def write(name: str, found: Mapping[str, Sweep], folder: Path) -> None:
    """Writes the picture and the numbers so far: a run that is stopped keeps what it has."""
    file = name.replace(",", "-").replace("=", "-")
    draw_sweep(found).savefig(folder / f"{file}.png", dpi=110)
    numbers = {k: {"widths": s.widths, "rates": s.rates, "loss": s.loss.tolist()} for k, s in found.items()}
    (folder / f"{file}.json").write_text(json.dumps(numbers, indent=1) + "\n")


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> int:
    """Measures, writes pictures and numbers, prints a line per width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    floats = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    parser.add_argument("--folder", type=Path, required=True, help="where pictures and numbers go")
    parser.add_argument("--optimizers", default=DEFAULT, help="names with ; between, options after commas")
    parser.add_argument("--widths", type=whole, default="64,128,256,512", help="the first is the base shape's")
    parser.add_argument("--rates", type=floats, default="1e-3,2e-3,4e-3,8e-3,1.6e-2,3.2e-2,6.4e-2")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--head_dim", type=int, default=16)
    parser.add_argument("--vocab", type=int, default=256)
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--steps", type=int, default=300, help="the budget of each run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weight_decay", type=float, default=0.1)
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    for name in a.optimizers.split(";"):
        optimizer_of(name, a.weight_decay)  # a mistake is known before anything is trained
    for name in a.optimizers.split(";"):
        found = measure(name, a)
        lines = [
            [name, kind, width, f"{2**best.log2:.2e}{' (edge)' if best.at_edge else ''}", best.loss, more]
            for kind, s in found.items()
            for width, best, more in zip(s.widths, s.best(), s.transferred())
        ]
        print(table(["", "", "width", "best rate", "loss", "nats lost at the narrowest one's"], lines))
        print("\n".join(f"{name}, {kind}: {s.spread:.2f} octaves\n" for kind, s in found.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
