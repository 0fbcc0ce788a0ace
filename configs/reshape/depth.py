"""Remove layers one by one, scored again after each, the stream's norm restored; needs calibration data.

jaxpt reshape --config=configs/reshape/depth.py --from=BUNDLE --to=BUNDLE --config.target.layers=12 \
    --config.calibration.sources="{'text': 'data/packed'}"
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    c = ConfigDict()
    c.transforms = [{"name": "prune_depth", "by": "influence", "rescale": True}]
    return c
