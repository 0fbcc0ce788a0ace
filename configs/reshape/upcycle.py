"""A mixture of experts out of a dense model: copies, granular or shared experts, partly drawn at random.

jaxpt reshape --config=configs/reshape/upcycle.py --from=BUNDLE --to=BUNDLE --config.transforms[0].mixture.keep=0.5
jaxpt reshape --config=configs/reshape/upcycle.py:fine --from=BUNDLE --to=BUNDLE --config.transforms[0].dense_first=1
"""

from ml_collections import ConfigDict

VARIANTS = {
    "copies": {"experts": 8, "experts_per_token": 2, "permute": False, "keep": 1.0},
    "fine": {"experts": 16, "experts_per_token": 4, "granularity": 2, "keep": 1.0},
    "redrawn": {"experts": 8, "experts_per_token": 2},  # keep 0.6
    "published": {"experts": 16, "experts_per_token": 4, "granularity": 2, "keep": 1.0, "scale": "cube_root"},
}


def get_config(variant: str = "redrawn") -> ConfigDict:
    """Returns the config; `variant` is copies, fine, redrawn or published (whose scale is not exact)."""
    c = ConfigDict()
    c.transforms = [{"name": "upcycle", "mixture": VARIANTS[variant], "every": 1, "dense_first": 0}]
    return c
