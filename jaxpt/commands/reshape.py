"""`jaxpt reshape`: opens a model, scores it, carries out the transforms and streams the result into a new bundle."""

import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxpt import api
from jaxpt.bundles import Bundle, BundleWriter, digest, open_bundle
from jaxpt.bundles.moments import Moments
from jaxpt.checkpoints.checkpoints import read_run
from jaxpt.checkpoints.named import named_checkpoint
from jaxpt.checkpoints.newest import chosen
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.config.file import load
from jaxpt.data import Loader, PackedSource, StageData
from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest
from jaxpt.interop import import_bundle
from jaxpt.interop.exporting import own_family
from jaxpt.interop.find_family import family_named, holding
from jaxpt.interop.folding import form_of
from jaxpt.models import Compute, ModelConfig, flatten, param_specs, unflatten
from jaxpt.models.batch import Rows
from jaxpt.models.size import active_param_count, param_count
from jaxpt.reshape.config import ReshapeConfig
from jaxpt.reshape.data_config import CalibrationConfig, HeldOutConfig
from jaxpt.reshape.kept_scores import keep_scores
from jaxpt.reshape.masks import masked_loss
from jaxpt.reshape.rewrite import LineageEntry
from jaxpt.reshape.sequence import dtypes_after, outcome_of, rewrites_of
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.step_zero import measure, report
from jaxpt.reshape.stream import InMemory, ModelSlices, chain, write
from jaxpt.reshape.target import lengths_of
from jaxpt.tokenizers.fingerprints import accepts
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.training.learned_masks import LearnedMasks, learned_masks
from jaxpt.training.moments import carry_moments, summary

HELP = (
    "cut, grow or upcycle a model: subclone, learned masks, depth, kv heads, grow width and depth, mixtures of experts"
)

EPILOG = """\
example:
  jaxpt reshape --config=configs/reshape/subclone.py --from=BUNDLE --to=SMALLER --config.target.layers=12
  jaxpt reshape --config=configs/reshape/subclone.py:compensated --from=HF_DIR --to=NARROWER \\
      --config.calibration.sources="{'text': 'data/packed'}" --config.target.embed=48 --pictures=scores
  jaxpt reshape --config=configs/reshape/grow_width.py --from=RUN --to=WIDER --config.target.mlp=3072
  jaxpt reshape --config=configs/reshape/subclone.py --from=RUN --moments --to=GOING_ON --config.target.mlp=64
  jaxpt reshape --config=configs/reshape/upcycle.py:fine --from=BUNDLE --to=MIXTURE \\
      --config.held_out.sources="{'text': 'data/held_out'}"
  jaxpt reshape --config=configs/reshape/shear.py:finalise --from=runs/masks --to=SHEARED \\
      --config.held_out.sources="{'text': 'data/held_out'}"

Without calibration sources the scores come from the weights alone. The model is read and written slice by slice; it
need not fit into memory (a training checkpoint is read whole). Before anything is
scored it says which families of Hugging Face models can hold the result, so that `jaxpt export` can write it after
training, and what would make the model's own family hold it. With --moments the run's optimizer is carried along, and
a run from that bundle with stages[0].load="params+optimizer" goes on with it. The lines at the end say whether the
function is kept, why, and what the loss on held-out rows was before and after.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and reshapes."""
    parser = Parser("jaxpt reshape", HELP, EPILOG, lambda: ReshapeConfig)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="Python file with get_config()")
    parser.add_argument(
        "--from", dest="source", required=True, metavar="PATH",
        help="the model: a bundle, a run or one of its checkpoints, or a Hugging Face directory",
    )  # fmt: skip
    parser.add_argument("--to", dest="target", required=True, metavar="BUNDLE", help="the new bundle; must not exist")
    parser.add_argument("--pictures", metavar="DIR", help="draw the scores into this folder")
    parser.add_argument(
        "--family", metavar="MODEL_TYPE", help="stop before anything is computed if this family cannot hold the result"
    )
    parser.add_argument(
        "--moments", action="store_true", help="carry the moments of the run's optimizer along; says which start new"
    )
    args, overrides = parser.parse_overrides(argv)
    config = load(ReshapeConfig, args.config, overrides)
    return reshape(config, args.source, args.target, args.pictures, args.family, moments=args.moments)


def reshape(
    config: ReshapeConfig,
    source: str,
    target: str,
    pictures: str | None = None,
    family: str | None = None,
    *,
    moments: bool = False,
) -> int:
    """Carries out `config` on the model at `source`, writing the bundle `target`; returns the exit code.

    Raises:
        JaxptError: a mistake in the config or the model, before anything is written where it can be known by then; or
            a result that `family` cannot hold.
    """
    if Path(target).exists():
        raise JaxptError(f"--to={target} exists; remove it or choose another path")
    masked = config.transforms[0].reads_masks
    source = str(_checkpoint(source, "shear" if masked else "--moments")) if moments or masked else source
    with tempfile.TemporaryDirectory(prefix="jaxpt-reshape-", dir=_folder(target)) as folder:
        model = open_model(source, Path(folder))
        batches, data = read_rows("calibration", config.calibration, model, config.calibration.mixture)
        held_out, _ = read_rows("held_out", config.held_out, model)
        setting = ReshapeSetting(
            config.target, batches, data, config.calibration, folder=Path(folder), seed=config.seed
        )
        learned = _learned(Path(source), setting) if masked else None
        first = config.transforms[0]
        first.check(model.config, setting)
        outcome = outcome_of(model.config, config.transforms, setting)
        said = None if outcome is None else _say_who_holds(outcome, model, family)
        if first.reads_scores:
            keep_scores(setting, model.config, lambda: model.digest, config.scores, pictures)
        elif config.scores is not None or pictures:
            raise JaxptError(f"config.scores and --pictures are of no use to {first.name}, which reads no scores")
        rewrites = rewrites_of(model.slices, config.transforms, setting)
        dtypes = dtypes_after(rewrites, model.dtypes)
        final = chain(model.slices, rewrites)
        if said != holding(final.config, own_family(model.lineage)):
            _say_who_holds(final.config, model, family)  # a transform that shows only now what it makes
        step_zero = measure(rewrites, model.slices, final, held_out, dtypes, setting.compute)
        entries: list[LineageEntry] = [{**r.entry, "parameters": param_count(r.target)} for r in rewrites]
        entries[0]["source"] = model.named  # the teacher of a run that distils, unless it names another
        entries[-1]["step_zero"] = step_zero.entry()
        if learned is not None:
            entries[-1]["masks"] = _masked_losses(learned, model, held_out, setting.compute)
        carried = carry_moments(Path(source), rewrites) if moments else None
        if carried is not None:
            facts = {"optimizer": carried.optimizer["name"], "step": carried.step, "reset": list(carried.reset)}
            entries[-1]["moments"] = facts
        _stream(final, dtypes, target, model.tokenizer, [*model.lineage, *entries], carried)
    _print_lengths(model.config, final.config)
    tokens, flops = sum(r.entry.get("tokens", 0) for r in rewrites), sum(r.entry.get("flops", 0.0) for r in rewrites)
    print(f"{target}: {' > '.join(r.entry['op'] for r in rewrites)}; consumed {tokens:,} tokens, {flops:.3g} FLOPs")
    print(report(rewrites, step_zero))
    if (of := entries[-1].get("masks", {})).get("soft") is not None:
        print(f"masks: loss {of['soft']:.5f} soft -> {of['final']:.5f} final -> {step_zero.after:.5f} cut")
    if carried is not None:
        print(f"moments of {carried.optimizer['name']} at step {carried.step}: {summary(carried)}")
    return 0


def _say_who_holds(outcome: ModelConfig, model: "OpenedModel", family: str | None) -> str:
    """Prints, and returns, which families a later export can write; refuses a result that the asked one cannot hold."""
    said = holding(outcome, own_family(model.lineage))
    print(said)
    if family is not None:
        form_of(family_named(family), outcome)
    return said


def _checkpoint(source: str, what: str) -> Path:
    """The checkpoint whose parameters are read, and what else `what` asks for: of a run its newest, fixed for both."""
    if api.kind_of(source) not in ("run", "checkpoint"):
        lacks = "optimizer; give a run, or leave --moments out" if what == "--moments" else "masks; give --from=RUN"
        raise JaxptError(f"{what}: {source} has no {lacks}")
    if api.kind_of(source) == "checkpoint":
        return named_checkpoint(source)
    return Path(source) / "checkpoints" / str(chosen(Path(source), None))


def _learned(checkpoint: Path, setting: ReshapeSetting) -> LearnedMasks:
    """Hands the masks of a checkpoint of mask training to the transforms; says how they came to be."""
    learned = learned_masks(checkpoint.parents[1], int(checkpoint.name))
    setting.masks = learned.final
    cost = f"{learned.tokens:,} tokens, {learned.flops:.3g} FLOPs"
    print(f"masks on {', '.join(learned.final)}, {learned.share:.0%} of their training done; the run took {cost}")
    if learned.line is not None:
        print(learned.line)
    return learned


def _masked_losses(
    learned: LearnedMasks, model: "OpenedModel", batches: Sequence[Rows[np.ndarray]], compute: Compute
) -> Mapping[str, object]:
    """The losses on held-out rows under soft and final masks, where there are such rows, for the lineage."""
    facts: dict[str, object] = {"trained": learned.share}
    if batches and isinstance(model.slices, InMemory):
        params = unflatten(model.slices.leaves)
        for name, masks in (("soft", learned.soft), ("final", learned.final)):
            facts[name] = masked_loss(model.config, params, masks, batches, compute)
    return facts


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model to be reshaped: its slices, what they are stored as, and what goes along with them."""

    slices: Bundle | InMemory
    dtypes: Mapping[str, str]
    tokenizer: Tokenizer | None
    lineage: Sequence[Mapping[str, object]]
    tokenizer_path: str  # for messages
    named: Mapping[str, str]  # the `path` where it lies and the `digest` of its parameters

    @property
    def config(self) -> ModelConfig:
        """The model's config."""
        return self.slices.config

    @functools.cached_property
    def digest(self) -> str:
        """A short hash of all parameters: which model scores are of."""
        parts = self.slices.digests if isinstance(self.slices, Bundle) else digest(unflatten(self.slices.leaves))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def fingerprint(self) -> str | None:
        """The tokenizer's."""
        return None if self.tokenizer is None else self.tokenizer.fingerprint


def open_model(path: str, folder: Path) -> OpenedModel:
    """Returns the model at `path`: a bundle as it lies, a Hugging Face directory by way of a bundle in `folder`.

    The parameters of a training checkpoint are read into memory.

    Raises:
        JaxptError: nothing there that can be read.
    """
    path, kind = str(named_checkpoint(path)), api.kind_of(path)
    print(f"{path}: {kind.replace('_', ' ')}")
    if kind in ("bundle", "hugging_face"):
        bundle = open_bundle(path if kind == "bundle" else import_bundle(path, folder / "imported"))
        named = _named(Path(path), bundle.digests if kind == "bundle" else bundle.lineage[0]["files"])
        where = str(Path(path) / "tokenizer")
        return OpenedModel(bundle, bundle.dtypes, bundle.tokenizer(), bundle.lineage, where, named)
    model = api.load(path)
    dtypes = {name: str(leaf.dtype) for name, leaf in flatten(model.params).items()}
    run, step = Path(path) if kind == "run" else Path(path).parents[1], model.lineage[-1]["steps"]
    slices, where = InMemory(model.config, model.params), str(run / "tokenizer")
    named = _named(run / "checkpoints" / str(step), read_run(run, step)["digests"])
    return OpenedModel(slices, dtypes, model.tokenizer, list(model.lineage), where, named)


def _named(path: Path, digests: object) -> Mapping[str, str]:
    """Where a model lies and which one it is, as `jaxpt.training.frozen` finds it again."""
    return {"path": str(path.resolve()), "digest": canonical_digest(digests)}


def _folder(target: str) -> Path:
    parent = Path(target).resolve().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent


def _stream(
    final: ModelSlices,
    dtypes: Mapping[str, str],
    target: str,
    tokenizer: Tokenizer | None,
    lineage: Sequence[Mapping[str, object]],
    moments: Moments | None,
) -> None:
    specs = flatten(param_specs(final.config))
    total = sum(spec.size * (4 if dtypes[path] == "float32" else 2) for path, spec in specs.items())
    with BundleWriter(target, final.config, dtypes) as writer, progress(total, "writing", "B", scale=True) as bar:
        write(final, writer.write, bar.update)
        writer.finish(tokenizer, lineage, moments)


def read_rows(
    key: str, c: CalibrationConfig | HeldOutConfig, model: OpenedModel, mixture: Mapping[str, float] | None = None
) -> tuple[list[Rows[np.ndarray]], Mapping[str, object] | None]:
    """Returns the batches that a config names and what identifies them; ([], None) without sources.

    Raises:
        JaxptError: sources of another tokenizer or of unequal length.
    """
    if not c.sources:
        return [], None
    sources = {name: PackedSource.open(path) for name, path in c.sources.items()}
    for name, s in sources.items():
        if model.tokenizer is None or not accepts(model.tokenizer, s.tokenizer_fingerprint, str(s.path)):
            raise JaxptError(
                f"config.{key}.sources.{name}: {s.path} was packed with another tokenizer than the model's; "
                f"pack it with {model.tokenizer_path}"
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


def _print_lengths(before: ModelConfig, after: ModelConfig) -> None:
    old, new = lengths_of(before), lengths_of(after)
    lines = [[name, old.get(name, "-"), new.get(name, "-")] for name in {**old, **new}]
    lines.append(["parameters", param_count(before), param_count(after)])
    if after.moe is not None:
        lines.append(["active parameters", active_param_count(before), active_param_count(after)])
    print(table(["", "from", "to"], lines))
