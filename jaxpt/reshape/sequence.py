"""A list of transforms carried out one after the other: each scored on the model that the ones before it made."""

from collections.abc import Mapping, Sequence

from jaxpt.models import ModelConfig
from jaxpt.reshape.rewrite import Rewrite
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices, chain
from jaxpt.reshape.transform import Transform


def rewrites_of(source: ModelSlices, transforms: Sequence[Transform], setting: ReshapeSetting) -> list[Rewrite]:
    """Returns the rewrites of all transforms, to be applied in order to `source`.

    Raises:
        JaxptError: an impossible target, missing data, an unknown option.
    """
    out: list[Rewrite] = []
    for transform in transforms:
        transform.check(source.config, setting)
        made = transform.rewrites(source, setting)
        source = chain(source, made)
        out += made
    return out


def outcome_of(config: ModelConfig, transforms: Sequence[Transform], setting: ReshapeSetting) -> ModelConfig | None:
    """Returns the config of the model that all transforms make, before anything is scored; None where one cannot say.

    Raises:
        JaxptError: an impossible target of any of them.
    """
    for transform in transforms:
        made = transform.outcome(config, setting)
        if made is None:
            return None
        config = made
    return config


def dtypes_after(rewrites: Sequence[Rewrite], dtypes: Mapping[str, str]) -> Mapping[str, str]:
    """Returns each new parameter's dtype: that of what it comes from, float32 where it is drawn."""
    for rewrite in rewrites:
        dtypes = {
            path: next((dtypes[term.source] for term in rule if term.source is not None), "float32")
            for path, rule in rewrite.rules.items()
        }
    return dtypes
