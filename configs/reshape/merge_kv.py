"""Fewer kv heads, all query heads kept: neighbouring kv heads become their mean, or the better of them.

jaxpt reshape --config=configs/reshape/merge_kv.py --from=BUNDLE --to=BUNDLE --config.target.kv_heads=4
"""

from ml_collections import ConfigDict


def get_config(how: str = "mean") -> ConfigDict:
    """Returns the config; `how` is mean or select."""
    c = ConfigDict()
    c.transforms = [{"name": "merge_kv", "how": how}]
    return c
