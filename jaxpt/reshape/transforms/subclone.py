"""A smaller model out of a larger one's most important channels, heads, neurons and layers."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models import ModelConfig
from jaxpt.models.size import flops_per_token
from jaxpt.reshape.compensate import RIDGE, compensated, gather_compensation, moment_flops, score_and_compensate
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.subclone import choose, cut, subclone_rewrite
from jaxpt.reshape.target import lengths
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class Subclone(Transform):
    """Cuts every axis to the target.

    Samragh et al. 2023, weight subcloning; see `jaxpt.reshape.subclone.subclone_rewrite`.
    """

    selection: Literal["importance", "uniform"] = option("importance", "keep the highest scores, or evenly spaced ones")
    scaling: Literal["none", "fan_in", "writers"] = option(
        "none", "multiply matrices by sqrt(inputs before / inputs left): none, all (fan_in), writers to the stream"
    )
    depth: Literal["loss", "influence", "middle", "even", "first"] | None = option(
        None, "which layers stay; None: by the best scores there are"
    )
    experts: Literal["contribution", "reap"] = option(
        "contribution", "rank experts by the mean over all tokens, or over their own (reap; needs calibration data)"
    )
    compensate: bool = option(False, "refit o and down by least squares; needs calibration data")
    ridge: float = option(RIDGE, "compensate: the ridge, relative to the mean diagonal of the second moments")

    def __post_init__(self) -> None:
        if self.compensate and self.scaling != "none":
            raise JaxptError(
                f"scaling is {self.scaling!r}, but with compensate the scale is fitted; leave scaling at 'none'"
            )

    @property
    def reads_scores(self) -> bool:
        """Unless positions are evenly spaced."""
        return self.selection == "importance"

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses an impossible target, and to compensate without data."""
        lengths(config, setting.target)
        if self.compensate:
            setting.need_data("compensate=True")
        if self.experts == "reap" and self.reads_scores and setting.scores is None and config.moe is not None:
            setting.need_data("experts='reap'")

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """Evenly spaced positions and the first layers stand for those that stay."""
        return subclone_rewrite(config, lengths(config, setting.target), selection="uniform", depth="first").target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite."""
        if self.compensate:
            return [self._compensated(source, setting)]
        return [self._cut(source, setting, setting.score(source) if self.reads_scores else None)]

    def _cut(self, source: ModelSlices, setting: ReshapeSetting, scores: Scores | None) -> Rewrite:
        return subclone_rewrite(
            source.config,
            lengths(source.config, setting.target),
            scores,
            selection=self.selection,
            scaling=self.scaling,
            depth=self.depth,
            experts=self.experts,
        )

    def _compensated(self, source: ModelSlices, setting: ReshapeSetting) -> Rewrite:
        """The cut with fitted matrices, from the pass that scores, or from one of its own where scores are there."""
        config, target = source.config, lengths(source.config, setting.target)
        scores = setting.stored(source) if self.reads_scores else None
        matrices = None
        if self.reads_scores and scores is None:
            setting.log(f"scoring and compensating on {len(setting.batches)} batches")
            scores, matrices = score_and_compensate(
                source, setting.batches, target, ridge=self.ridge, folder=setting.folder, **setting.scoring
            )
            setting.note(scores)
        entry = self._cut(source, setting, scores).entry
        kept = choose(config, target, scores, depth=self.depth, experts=self.experts)
        rewrite = dataclasses.replace(cut(config, target, kept, scores), entry=entry)
        index = {axis: i for axis, i in (("mlp", kept.mlp), ("heads", kept.heads)) if i is not None}
        tokens = setting.calibration_tokens
        flops, passes = moment_flops(config, index, tokens), 0
        if matrices is None:
            matrices = gather_compensation(
                source, setting.batches, index, ridge=self.ridge, folder=setting.folder, compute=setting.compute
            )
            length = setting.batches[0]["tokens"].shape[1]
            flops, passes = flops + tokens * flops_per_token(config, length, backward=False), 1
        return compensated(rewrite, matrices, tokens=passes * tokens, flops=flops)
