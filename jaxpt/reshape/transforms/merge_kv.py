"""Fewer kv heads with all query heads kept."""

from dataclasses import dataclass
from typing import Literal

from jaxpt.config.choice import option
from jaxpt.models import ModelConfig
from jaxpt.reshape.merge import merge_kv
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.transform import Transform


@dataclass(frozen=True)
class MergeKv(Transform):
    """Makes one kv head of each run of neighbours, down to `target.kv_heads`."""

    how: Literal["mean", "select"] = option("mean", "mean of the merged heads, or select the one of highest score")

    @property
    def reads_scores(self) -> bool:
        """Only to select."""
        return self.how == "select"

    def check(self, config: ModelConfig, setting: ReshapeSetting) -> None:
        """Refuses a target without kv_heads."""
        setting.wanted("kv_heads", "merge_kv")

    def outcome(self, config: ModelConfig, setting: ReshapeSetting) -> ModelConfig:
        """As the rewrite; how heads are merged changes no shape."""
        return merge_kv(config, setting.wanted("kv_heads", "merge_kv")).target

    def rewrites(self, source: ModelSlices, setting: ReshapeSetting) -> list[Rewrite]:
        """Returns one rewrite.

        Raises:
            JaxptError: `target.kv_heads` does not divide the source's.
        """
        kv_heads = setting.wanted("kv_heads", "merge_kv")
        scores = setting.score(source) if self.reads_scores else None
        return [merge_kv(source.config, kv_heads, how=self.how, scores=scores)]
