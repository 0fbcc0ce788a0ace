"""`jaxpt merge`: the weighted mean of models of one shape, slice by slice, into a bundle."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpt import tokenizers
from jaxpt.bundles import BundleWriter
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.errors import JaxptError
from jaxpt.models import flatten, param_specs
from jaxpt.reshape.stream import write
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.training.merging import (
    Ingredient,
    Merged,
    check_weights,
    decay_weights,
    merged_lineage,
    open_ingredient,
    seen_rows,
)
from jaxpt.training.starting_point import ledger_of

HELP = "average bundles or checkpoints: their mean, a weighted mean, or what stands for a decay of the learning rate"

EPILOG = """\
example:
  jaxpt merge --from=runs/c@4,runs/c --to=mean
  jaxpt merge --from=runs/c@4,runs/c --weights=1,3 --to=weighted
  jaxpt merge --from=runs/c@4,runs/c --decay=sqrt --to=decayed

Parameters are read, averaged in float32 and written one layer at a time: two slices of one model are in memory,
whatever the size and the number of the models. --decay takes checkpoints of one constant learning rate in rising order
and weighs them as if that rate had been decayed over them (WSM, arXiv 2507.17634). The bundle's lineage holds that of
every model, its ledger the rows that any of them has seen; rows that several have seen are counted.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and merges."""
    parser = Parser("jaxpt merge", HELP, EPILOG)
    parser.add_argument(
        "--from", dest="sources", required=True, metavar="PATH,PATH,…", help="bundles, runs, RUN@STEP; at least two"
    )
    parser.add_argument("--to", dest="target", required=True, metavar="BUNDLE", help="the new bundle; must not exist")
    parser.add_argument("--weights", metavar="W,W,…", help="of each model; left out: all alike")
    parser.add_argument(
        "--decay", metavar="SHAPE", help="weights that stand for a decay: linear, cosine, sqrt, exponential"
    )
    parser.add_argument("--end", type=float, default=0.0, help="of --decay: multiple of the rate that it ends at")
    parser.add_argument("--dtype", default="float32", help="of the result: float32 (the default), bfloat16 or float16")
    args = parser.parse_args(list(argv))
    if Path(args.target).exists():
        raise JaxptError(f"--to={args.target} exists; remove it or choose another path")
    paths = [path for path in args.sources.split(",") if path]
    if len(paths) < 2:
        raise JaxptError(f"--from={args.sources}: give at least two models, with commas between them")
    if args.weights and args.decay:
        raise JaxptError("--weights and --decay both say how much each model counts; give one of them")
    of = [open_ingredient(path) for path in paths]
    return merge(of, _weights(of, args), args.target, args.dtype, _how(args))


def merge(of: Sequence[Ingredient], weights: Sequence[float], target: str, dtype: str, how: dict[str, Any]) -> int:
    """Writes the mean of `of` as the bundle `target`; returns the exit code."""
    merged = Merged([one.slices for one in of], weights, [one.name for one in of], dtype)
    tokenizer = _tokenizer(of)
    print(table(["model", "step", "weight"], [[one.name, one.step or "", float(w)] for one, w in zip(of, weights)]))
    size = 4 * sum(math.prod(spec.shape) for spec in flatten(param_specs(merged.config)).values())
    with BundleWriter(target, merged.config, dtype) as writer, progress(size, "merge", "B", scale=True) as bar:
        step = bar.update if dtype == "float32" else lambda nbytes: bar.update(2 * nbytes)
        write(merged, writer.write, step)
        path = writer.finish(tokenizer, merged_lineage(of, weights, how))
    rows = [[seen.name, seen.rows, seen.shared] for seen in seen_rows([ledger_of(one.lineage) for one in of])]
    if rows:
        print(table(["source", "rows that any has seen", "of them by several"], rows))
    print(path)
    return 0


def _weights(of: Sequence[Ingredient], args: Any) -> list[float]:
    """The weights that were asked for, which sum to 1."""
    if args.decay:
        steps = [one.step for one in of]
        known = [step for step in steps if step is not None]
        if len(known) < len(steps):
            name = of[steps.index(None)].name
            raise JaxptError(f"--decay needs the step of each model, {name} has none; name RUN@STEP, or give --weights")
        return decay_weights(args.decay, args.end, known)
    if args.weights:
        try:
            given = [float(w) for w in args.weights.split(",")]
        except ValueError:
            raise JaxptError(f"--weights={args.weights}: give numbers with commas between them") from None
        return check_weights(given, len(of))
    return [1 / len(of)] * len(of)


def _how(args: Any) -> dict[str, Any]:
    """What the lineage says of the weights."""
    if args.decay:
        return {"weights": "decay", "shape": args.decay, "end": args.end}
    return {"weights": "given" if args.weights else "mean"}


def _tokenizer(of: Sequence[Ingredient]) -> Tokenizer | None:
    """The tokenizer that all models which have one share."""
    found: Tokenizer | None = None
    for one in of:
        if one.tokenizer is None:
            continue
        now = tokenizers.load(one.tokenizer)
        if found is not None and now.fingerprint != found.fingerprint:
            raise JaxptError(f"--from: {one.name} has another tokenizer than the models before it")
        found = found or now
    return found
