"""A list of transforms carried out one after the other: each scored on the model that the ones before it made."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.models import Compute
from jaxpt.models.batch import Rows
from jaxpt.models.size import flops_per_token
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.compensate import compensated, gather_compensation, moment_flops, score_and_compensate
from jaxpt.reshape.config import CalibrationConfig, TransformConfig
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.depth import drop_layers
from jaxpt.reshape.grow_target import deepen, widen
from jaxpt.reshape.merge import merge_kv
from jaxpt.reshape.plan import Plan
from jaxpt.reshape.prune_depth import prune_depth
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.stream import Reshaped, Source
from jaxpt.reshape.subclone import choose, cut, random_init, subclone_plan
from jaxpt.reshape.target import Target, lengths
from jaxpt.reshape.upcycle import average_experts, upcycle


def _nobody(scores: Scores) -> None:
    pass


@dataclasses.dataclass
class Setting:
    """What the transforms may use.

    `batches` is the calibration data (empty: none), `data` what identifies it, `scores` those of the first source
    where they are stored, `scored` gets the first scores that are used, `folder` is a place for matrices larger than
    memory, `tell` prints a line.
    """

    target: Target
    batches: Sequence[Rows] = ()
    data: Any = None
    calibration: CalibrationConfig = dataclasses.field(default_factory=CalibrationConfig)
    scores: Scores | None = None
    scored: Callable[[Scores], Any] = _nobody
    folder: Path | None = None
    seed: int = 0
    tell: Callable[[str], None] = print

    @property
    def compute(self) -> Compute:
        """How forward passes are computed."""
        return Compute(dtype=self.calibration.dtype)

    @property
    def scoring(self) -> dict[str, Any]:
        """How scores are taken from data: the options of `activation_scores`."""
        c = self.calibration
        names = ("over_sequence", "over_batch", "removal")
        return {"data": self.data, "compute": self.compute, **{n: getattr(c, n) for n in names}}

    def score(self, source: Source) -> Scores:
        """Returns stored scores, else scores from the data, else data-free ones, and says which."""
        stored = self.stored(source)
        if stored is not None:
            return stored
        if self.batches:
            self.tell(f"scoring on {len(self.batches)} batches")
            return self.note(activation_scores(source, self.batches, **self.scoring))
        self.tell("no calibration data: data-free scores (norms of the weights) are used")
        return self.note(weight_scores(source))

    def stored(self, source: Source) -> Scores | None:
        """Returns the stored scores, once: they are of the first model only."""
        if self.scores is None:
            return None
        scores, self.scores = self.scores, None
        scores.check(source.config)
        return self.note(scores)

    def note(self, scores: Scores) -> Scores:
        """Hands the first scores to `scored`."""
        first, self.scored = self.scored, _nobody
        first(scores)
        return scores

    def need_data(self, what: str) -> None:
        """Raises a JaxptError if there is no calibration data."""
        if not self.batches:
            raise JaxptError(f"{what} needs calibration data; set config.calibration.sources")


def plans(source: Source, transforms: Sequence[TransformConfig], setting: Setting) -> list[Plan]:
    """Returns the plans of all transforms, to be applied in order to `source`.

    Raises:
        JaxptError: an impossible target, missing data, an unknown option.
    """
    out: list[Plan] = []
    for t in transforms:
        for plan in RUN[t.name](source, t, setting):
            out.append(plan)
            source = Reshaped(source, plan)
    return out


def _subclone(source: Source, t: TransformConfig, s: Setting) -> list[Plan]:
    target, config = lengths(source.config, s.target), source.config
    if t.compensate:
        s.need_data("compensate=True")
    scores, matrices = None, None
    if t.selection == "importance":
        scores = s.stored(source) if t.compensate else s.score(source)
    if t.compensate and t.selection == "importance" and scores is None:
        s.tell(f"scoring and compensating on {len(s.batches)} batches")
        scores, matrices = score_and_compensate(source, s.batches, target, ridge=t.ridge, folder=s.folder, **s.scoring)
        s.note(scores)
    plan = subclone_plan(config, target, scores, selection=t.selection, scaling=t.scaling, depth=t.depth)
    if not t.compensate:
        return [plan]
    kept = choose(config, target, scores, depth=t.depth)
    plan = dataclasses.replace(cut(config, target, kept, scores), entry=plan.entry)
    index = {a: getattr(kept, a) for a in ("mlp", "heads") if getattr(kept, a) is not None}
    tokens = sum(int(b["tokens"].size) for b in s.batches)
    flops, passes = moment_flops(config, index, tokens), 0
    if matrices is None:
        matrices = gather_compensation(source, s.batches, index, ridge=t.ridge, folder=s.folder, compute=s.compute)
        flops, passes = flops + tokens * flops_per_token(config, s.batches[0]["tokens"].shape[1], backward=False), 1
    return [compensated(plan, matrices, tokens=passes * tokens, flops=flops)]


def _prune_depth(source: Source, t: TransformConfig, s: Setting) -> list[Plan]:
    s.need_data("prune_depth")
    if s.target.layers is None:
        raise JaxptError("prune_depth needs target.layers")
    return prune_depth(source, s.target.layers, s.batches, by=t.by, rescale=t.rescale, compute=s.compute)


def _merge_kv(source: Source, t: TransformConfig, s: Setting) -> list[Plan]:
    if s.target.kv_heads is None:
        raise JaxptError("merge_kv needs target.kv_heads")
    scores = s.score(source) if t.how == "select" else None
    return [merge_kv(source.config, s.target.kv_heads, how=t.how or "mean", scores=scores)]


def _grow_width(source: Source, t: TransformConfig, s: Setting) -> list[Plan]:
    return widen(source.config, s.target, t.how or "pad", fresh=t.fresh, noise=t.noise, seed=s.seed)


def _grow_depth(source: Source, t: TransformConfig, s: Setting) -> list[Plan]:
    if s.target.layers is None:
        raise JaxptError("grow_depth needs target.layers")
    return [deepen(source.config, s.target.layers, t.how or "llama_pro")]


def _upcycle(source: Source, t: TransformConfig, s: Setting) -> list[Plan]:
    assert t.mixture is not None
    layers = t.layers or range(t.dense_first, len(source.config.layers), t.every)
    return [upcycle(source.config, t.mixture, layers, s.seed)]


RUN: dict[str, Callable[[Source, TransformConfig, Setting], list[Plan]]] = {
    "subclone": _subclone,
    "random_init": lambda source, t, s: [random_init(source.config, s.target, s.seed)],
    "prune_depth": _prune_depth,
    "drop_layers": lambda source, t, s: [drop_layers(source.config, t.drop)],
    "merge_kv": _merge_kv,
    "grow_width": _grow_width,
    "grow_depth": _grow_depth,
    "upcycle": _upcycle,
    "average_experts": lambda source, t, s: [average_experts(source.config)],
}


def dtypes_after(plan: Plan, dtypes: Mapping[str, str]) -> dict[str, str]:
    """Returns each new parameter's dtype: that of what it comes from, float32 where it is drawn."""
    return {
        path: next((dtypes[t.source] for t in rule if t.source is not None), "float32")
        for path, rule in plan.rules.items()
    }
