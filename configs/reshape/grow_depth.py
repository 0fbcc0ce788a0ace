"""A deeper model: identity blocks that start as nothing (LLaMA Pro), or layers that run more than once.

jaxpt reshape --config=configs/reshape/grow_depth.py --from=BUNDLE --to=BUNDLE --config.target.layers=40
jaxpt reshape --config=configs/reshape/grow_depth.py:depth_up_scale --from=BUNDLE --to=BUNDLE --config.target.layers=48
"""

from ml_collections import ConfigDict


def get_config(how: str = "llama_pro") -> ConfigDict:
    """Returns the config; `how` is llama_pro, stack, interpolate or depth_up_scale."""
    c = ConfigDict()
    c.transforms = [{"name": "grow_depth", "how": how}]
    return c
