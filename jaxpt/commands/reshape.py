"""`jaxpt reshape`: opens a model, scores it, carries out the transforms and streams the result into a new bundle."""

import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpt import api
from jaxpt.bundles import Bundle, BundleWriter, digest, open_bundle
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.config.file import load
from jaxpt.data import Loader, PackedSource, StageData
from jaxpt.errors import JaxptError
from jaxpt.interop import import_bundle
from jaxpt.models import ModelConfig, flatten, param_specs, unflatten
from jaxpt.models.batch import Rows
from jaxpt.models.size import active_param_count, param_count
from jaxpt.reshape.config import CalibrationConfig, HeldOutConfig, ReshapeConfig
from jaxpt.reshape.picture import draw_scores
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.sequence import Setting, dtypes_after, plans
from jaxpt.reshape.step_zero import measure, report
from jaxpt.reshape.stream import InMemory, chain, write
from jaxpt.reshape.target import lengths, lengths_of

HELP = "cut, grow or upcycle a model: subclone, prune depth, merge kv heads, grow width and depth, mixtures of experts"

EPILOG = """\
example:
  jaxpt reshape --config=configs/reshape/subclone.py --from=BUNDLE --to=BUNDLE --config.target.layers=12
  jaxpt reshape --config=configs/reshape/subclone.py:compensated --from=HF_DIR --to=BUNDLE \\
      --config.calibration.sources="{'text': 'data/packed'}" --config.target.embed=1024 --pictures=scores
  jaxpt reshape --config=configs/reshape/grow_width.py --from=RUN --to=BUNDLE --config.target.mlp=3072
  jaxpt reshape --config=configs/reshape/upcycle.py:fine --from=BUNDLE --to=BUNDLE \\
      --config.held_out.sources="{'text': 'data/held_out'}"

Without calibration sources the scores come from the weights alone. The model is read and written slice by slice; it
need not fit into memory (a training checkpoint is read whole). The lines at the end say whether the function is kept,
why, and what the loss on held-out rows was before and after.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and reshapes."""
    parser = Parser("jaxpt reshape", HELP, EPILOG)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="Python file with get_config()")
    parser.add_argument(
        "--from", dest="source", required=True, metavar="PATH",
        help="the model: a bundle, a run or one of its checkpoints, or a Hugging Face directory",
    )  # fmt: skip
    parser.add_argument("--to", dest="target", required=True, metavar="BUNDLE", help="the new bundle; must not exist")
    parser.add_argument("--pictures", metavar="DIR", help="draw the scores into this folder")
    args, overrides = parser.parse_overrides(argv)
    config = load(ReshapeConfig, args.config, overrides)
    return reshape(config, args.source, args.target, args.pictures)


def reshape(config: ReshapeConfig, source: str, target: str, pictures: str | None = None) -> int:
    """Carries out `config` on the model at `source`, writing the bundle `target`; returns the exit code.

    Raises:
        JaxptError: a mistake in the config or the model, before anything is written where it can be known by then.
    """
    if Path(target).exists():
        raise JaxptError(f"--to={target} exists; remove it or choose another path")
    with tempfile.TemporaryDirectory(prefix="jaxpt-reshape-", dir=_folder(target)) as folder:
        model = found(source, Path(folder))
        batches, data = rows("calibration", config.calibration, model, config.calibration.mixture)
        held, _ = rows("held_out", config.held_out, model)
        setting = Setting(
            config.target, batches, data, config.calibration, folder=Path(folder), seed=config.seed, tell=print
        )
        first = config.transforms[0]
        if first.name in ("subclone", "random_init"):
            lengths(model.config, config.target)  # refuse before anything is scored
        reads = {"subclone": first.selection == "importance", "merge_kv": first.how == "select"}
        if reads.get(first.name):
            _keep_scores(config, model, setting, pictures)
        elif config.scores is not None or pictures:
            raise JaxptError(f"config.scores and --pictures are of no use to {first.name}, which reads no scores")
        steps = plans(model.source, config.transforms, setting)
        dtypes = model.dtypes
        for plan in steps:
            dtypes = dtypes_after(plan, dtypes)
        final = chain(model.source, steps)
        found_at_zero = measure(steps, model.source, final, held, dtypes, setting.compute)
        entries = [{**p.entry, "parameters": param_count(p.target)} for p in steps]
        entries[-1]["step_zero"] = found_at_zero.entry()
        _stream(final, dtypes, target, model.tokenizer, [*model.lineage, *entries])
    _tell(model.config, final.config, steps, target)
    print(report(steps, found_at_zero))
    return 0


@dataclasses.dataclass(frozen=True)
class Found:
    """A model to be reshaped: its slices, what they are stored as, and what goes along with them."""

    source: Bundle | InMemory
    dtypes: dict[str, str]
    tokenizer: Any
    lineage: list[dict[str, Any]]
    where: str  # of the tokenizer, for messages

    @property
    def config(self) -> ModelConfig:
        """The model's config."""
        return self.source.config

    @functools.cached_property
    def digest(self) -> str:
        """A short hash of all parameters: which model scores are of."""
        parts = self.source.digests if isinstance(self.source, Bundle) else digest(unflatten(self.source.leaves))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def fingerprint(self) -> str | None:
        """The tokenizer's."""
        return None if self.tokenizer is None else self.tokenizer.fingerprint


def found(path: str, folder: Path) -> Found:
    """Returns the model at `path`: a bundle as it lies, a Hugging Face directory by way of a bundle in `folder`.

    The parameters of a training checkpoint are read into memory.

    Raises:
        JaxptError: nothing there that can be read.
    """
    kind = api.kind_of(path)
    print(f"{path}: {kind.replace('_', ' ')}")
    if kind in ("bundle", "hugging_face"):
        bundle = open_bundle(path if kind == "bundle" else import_bundle(path, folder / "imported"))
        return Found(bundle, bundle.dtypes, bundle.tokenizer(), bundle.lineage, str(Path(path) / "tokenizer"))
    model = api.load(path)
    dtypes = {name: str(leaf.dtype) for name, leaf in flatten(model.params).items()}
    run = Path(path) if kind == "run" else Path(path).parents[1]
    source = InMemory(model.config, model.params)
    return Found(source, dtypes, model.tokenizer, list(model.lineage), str(run / "tokenizer"))


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


def _keep_scores(config: ReshapeConfig, model: Found, setting: Setting, pictures: str | None) -> None:
    """Has stored scores used where there are some, fresh ones kept where the config says, and all drawn."""
    file = config.scores
    known = file is not None and Path(file).exists()
    if known:
        setting.scores = Scores.load(file)
        setting.scores.check(model.config)
        _check_request(file, setting.scores, model, setting)
        print(f"scores from {file} ({setting.scores.meta['method']}, {setting.scores.meta['tokens']:,} tokens)")

    def scored(scores: Scores) -> None:
        if file is not None and not known:
            Scores(scores.values, {**scores.meta, "model": model.digest}).save(file)
            print(f"scores kept in {file}")
        for path in draw_scores(scores, pictures) if pictures else ():
            print(f"drew {path}")

    setting.scored = scored


def _check_request(file: str, scores: Scores, model: Found, setting: Setting) -> None:
    """Refuses scores of another model, or of other data or in another way than the config asks for."""
    way = f"remove {file} or give another file in config.scores"
    if scores.meta.get("model") != model.digest:
        raise JaxptError(f"{file} holds scores of other weights than those of the model; {way}")
    if not setting.batches:
        return
    c = setting.calibration
    asked = {"data": setting.data, "over_sequence": c.over_sequence, "over_batch": c.over_batch}
    for name, value in asked.items():
        if scores.meta.get(name) != value:
            key = "config.calibration" + ("" if name == "data" else f".{name}")
            raise JaxptError(f"{file} was scored on {scores.meta.get(name)}, {key} asks for {value}; {way}")
    if c.removal and "layers_loss" not in scores.values:
        raise JaxptError(f"{file} lacks the loss change on removal that config.calibration.removal asks for; {way}")


def rows(
    key: str, c: CalibrationConfig | HeldOutConfig, model: Found, mixture: Mapping[str, float] | None = None
) -> tuple[list[Rows], Any]:
    """Returns the batches that a config names and what identifies them; ([], None) without sources.

    Raises:
        JaxptError: sources of another tokenizer or of unequal length.
    """
    if not c.sources:
        return [], None
    sources = {name: PackedSource.open(path) for name, path in c.sources.items()}
    for name, s in sources.items():
        if s.tokenizer_fingerprint != model.fingerprint:
            raise JaxptError(
                f"config.{key}.sources.{name}: {s.path} was packed with another tokenizer than the model's; "
                f"pack it with {model.where}"
            )
    sizes = {s.sequence_length for s in sources.values()}
    if len(sizes) > 1:
        raise JaxptError(f"config.{key}.sources have rows of {sorted(sizes)} tokens; give sources of one length")
    weights = dict(mixture or dict.fromkeys(sources, 1.0))
    loader = Loader(sources, [StageData(0, c.batches, c.batch_size, sizes.pop(), weights)])
    data = {
        "sources": {n: s.fingerprint for n, s in sources.items()},
        "mixture": weights,
        "rows": c.batches * c.batch_size,
    }
    return [loader.batch(i) for i in range(c.batches)], data


def _tell(a: ModelConfig, b: ModelConfig, steps: list[Any], target: str) -> None:
    old, new = lengths_of(a), lengths_of(b)
    shown = [[n, old.get(n, "-"), new.get(n, "-")] for n in {**old, **new}]
    shown.append(["parameters", param_count(a), param_count(b)])
    if b.moe is not None:
        shown.append(["active parameters", active_param_count(a), active_param_count(b)])
    print(table(["", "from", "to"], shown))
    tokens, flops = (sum(p.entry.get(k, 0) for p in steps) for k in ("tokens", "flops"))
    print(f"{target}: {' > '.join(p.entry['op'] for p in steps)}; consumed {tokens:,} tokens, {flops:.3g} FLOPs")
