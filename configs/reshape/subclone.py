"""Cut every axis to a target: by importance, and in the variants that it is compared with.

jaxpt reshape --config=configs/reshape/subclone.py --from=BUNDLE --to=BUNDLE --config.target.layers=12
jaxpt reshape --config=configs/reshape/subclone.py:compensated --from=BUNDLE --to=BUNDLE \
    --config.target.mlp=2048 --config.calibration.sources="{'text': 'data/packed'}"
"""

from ml_collections import ConfigDict

VARIANTS = {
    "importance": {"name": "subclone"},
    "scaled": {"name": "subclone", "scaling": "fan_in"},
    "compensated": {"name": "subclone", "compensate": True},
    "uniform": {"name": "subclone", "selection": "uniform"},
    "random": {"name": "random_init"},
}


def get_config(variant: str = "importance") -> ConfigDict:
    """Returns the config; `variant` is importance, scaled, compensated, uniform or random."""
    c = ConfigDict()
    c.transforms = [VARIANTS[variant]]
    return c
