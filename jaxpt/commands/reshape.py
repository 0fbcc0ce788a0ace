"""`jaxpt reshape`: opens a bundle, scores it, carries out the transforms and streams the result into a new bundle."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpt.bundles import Bundle, BundleWriter, open_bundle
from jaxpt.config_file import load
from jaxpt.data import Loader, PackedSource, StageData
from jaxpt.errors import JaxptError
from jaxpt.models import flatten, param_specs
from jaxpt.reshape.config import CalibrationConfig, ReshapeConfig
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.picture import draw_scores
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.sequence import Setting, dtypes_after, plans
from jaxpt.reshape.stream import chain, write
from jaxpt.reshape.target import lengths
from jaxpt.terminal import progress, table

HELP = "cut a model to another shape: subclone, prune depth, merge kv heads, compensate"

EPILOG = """\
example:
  jaxpt reshape --config=configs/reshape/subclone.py --from=BUNDLE --to=BUNDLE --config.target.layers=12
  jaxpt reshape --config=configs/reshape/subclone.py:compensated --from=BUNDLE --to=BUNDLE \\
      --config.calibration.sources="{'text': 'data/packed'}" --config.target.embed=1024 --pictures=scores

Without calibration sources the scores come from the weights alone. The model is read and written slice by slice; it
need not fit into memory.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and reshapes."""
    parser = argparse.ArgumentParser(
        "jaxpt reshape",
        description=HELP,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="Python file with get_config()")
    parser.add_argument("--from", dest="source", required=True, metavar="BUNDLE", help="the model that is cut")
    parser.add_argument("--to", dest="target", required=True, metavar="BUNDLE", help="the new bundle; must not exist")
    parser.add_argument("--pictures", metavar="DIR", help="draw the scores into this folder")
    args, overrides = parser.parse_known_args(list(argv))
    config = load(ReshapeConfig, args.config, overrides)
    return reshape(config, args.source, args.target, args.pictures)


def reshape(config: ReshapeConfig, source: str, target: str, pictures: str | None = None) -> int:
    """Carries out `config` on the bundle `source`, writing the bundle `target`; returns the exit code.

    Raises:
        JaxptError: a mistake in the config or the bundle, before anything is written where it can be known by then.
    """
    if Path(target).exists():
        raise JaxptError(f"--to={target} exists; remove it or choose another path")
    bundle = open_bundle(source)
    tokenizer = bundle.tokenizer()
    batches, data = _calibration(config.calibration, bundle)
    with tempfile.TemporaryDirectory(prefix="jaxpt-reshape-", dir=_folder(target)) as folder:
        setting = Setting(config.target, batches, data, config.calibration, None, Path(folder), config.seed, tell=print)
        first = config.transforms[0]
        if first.name in ("subclone", "random_init"):
            lengths(bundle.config, config.target)  # refuse before anything is scored
        select = first.name == "merge_kv" and first.how == "select"
        if select or (first.name == "subclone" and first.selection == "importance"):
            setting.scores = _scores(config, bundle, setting)
            if pictures:
                for path in draw_scores(setting.scores, pictures):
                    print(f"drew {path}")
        steps = plans(bundle, config.transforms, setting)
        dtypes = bundle.dtypes
        for plan in steps:
            dtypes = dtypes_after(plan, dtypes)
        final = chain(bundle, steps)
        lineage = [*bundle.lineage, *({**p.entry, "parameters": p.target.param_count()} for p in steps)]
        _stream(final, dtypes, target, tokenizer, lineage)
    _tell(bundle, final, steps, target)
    return 0


def _folder(target: str) -> Path:
    parent = Path(target).resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _stream(final: Any, dtypes: dict[str, str], target: str, tokenizer: Any, lineage: list[dict[str, Any]]) -> None:
    specs = flatten(param_specs(final.config))
    total = sum(spec.size * (4 if dtypes[path] == "float32" else 2) for path, spec in specs.items())
    with BundleWriter(target, final.config, dtypes) as writer, progress(total, "writing", "B", scale=True) as bar:
        write(final, writer.write, bar.update)
        writer.finish(tokenizer, lineage)


def _scores(config: ReshapeConfig, bundle: Bundle, setting: Setting) -> Scores:
    """Stored scores where there are some, else fresh ones, kept where the config says."""
    if config.scores is not None and Path(config.scores).exists():
        scores = Scores.load(config.scores)
        scores.check(bundle.config)
        print(f"scores from {config.scores} ({scores.meta['method']}, {scores.meta['tokens']:,} tokens)")
        return scores
    scores = setting.score(bundle) if setting.batches else weight_scores(bundle)
    if not setting.batches:
        print("no calibration data: data-free scores (norms of the weights) are used")
    if config.scores is not None:
        scores.save(config.scores)
        print(f"scores kept in {config.scores}")
    return scores


def _calibration(c: CalibrationConfig, bundle: Bundle) -> tuple[list[dict[str, np.ndarray]], Any]:
    """The calibration batches and what identifies them; ([], None) without sources."""
    if not c.sources:
        return [], None
    sources = {name: PackedSource.open(path) for name, path in c.sources.items()}
    for name, s in sources.items():
        if s.tokenizer_fingerprint != bundle.tokenizer_fingerprint:
            raise JaxptError(
                f"config.calibration.sources.{name}: {s.path} was packed with another tokenizer than the model's; "
                f"pack it with {bundle.path / 'tokenizer'}"
            )
    lengths = {s.sequence_length for s in sources.values()}
    if len(lengths) > 1:
        raise JaxptError(
            f"config.calibration.sources have rows of {sorted(lengths)} tokens; give sources of one length"
        )
    weights = c.mixture or dict.fromkeys(sources, 1.0)
    loader = Loader(sources, [StageData(0, c.batches, c.batch_size, lengths.pop(), weights)])
    batches = [loader.batch(i) for i in range(c.batches)]
    data = {
        "sources": {n: s.fingerprint for n, s in sources.items()},
        "mixture": weights,
        "rows": c.batches * c.batch_size,
    }
    return batches, data


def _tell(bundle: Bundle, final: Any, steps: list[Any], target: str) -> None:
    a, b = bundle.config, final.config
    names = ("embed", "heads", "kv_heads", "head_dim", "mlp")
    rows = [["layers", len(a.layers), len(b.layers)]] + [[n, getattr(a, n), getattr(b, n)] for n in names]
    rows.append(["parameters", a.param_count(), b.param_count()])
    print(table(["", "from", "to"], rows))
    tokens, flops = (sum(p.entry.get(k, 0) for p in steps) for k in ("tokens", "flops"))
    print(f"{target}: {' > '.join(p.entry['op'] for p in steps)}; consumed {tokens:,} tokens, {flops:.3g} FLOPs")
