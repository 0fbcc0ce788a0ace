"""A wider model that starts as its parent: any of embed, mlp, heads, kv_heads, head_dim, to any larger size.

jaxpt reshape --config=configs/reshape/grow_width.py --from=BUNDLE --to=BUNDLE --config.target.mlp=3072
jaxpt reshape --config=configs/reshape/grow_width.py:aki --from=BUNDLE --to=BUNDLE --config.target.mlp=3072 \
    --config.held_out.sources="{'text': 'data/held_out'}"
"""

from ml_collections import ConfigDict

VARIANTS = {
    "pad": {"how": "pad"},  # new positions add zero, what reads or feeds them is drawn
    "duplicate": {"how": "duplicate"},  # copies, as evenly as it goes
    "fpi": {"how": "fpi"},  # copies of sampled positions (bert2BERT), the norms corrected
    "noise": {"how": "fpi", "noise": 0.01},  # copies that learn apart
    "aki": {"how": "aki"},  # new neurons are the next layer's: not the same function
}


def get_config(variant: str = "pad") -> ConfigDict:
    """Returns the config; `variant` is pad, duplicate, fpi, noise or aki."""
    c = ConfigDict()
    c.transforms = [{"name": "grow_width", **VARIANTS[variant]}]
    return c
