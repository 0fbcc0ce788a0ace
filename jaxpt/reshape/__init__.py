"""Transforms: ops on named axes, importance, subcloning, depth, kv-head merging, compensation."""

from jaxpt.reshape.apply import apply, reshaped
from jaxpt.reshape.axes import AxisMap, duplicate, mask, pad, permute, rewrite_axes, scale, select
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.compensate import compensated, gather_compensation
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.depth import drop_and_rescale, drop_layers
from jaxpt.reshape.merge import merge_kv
from jaxpt.reshape.rewrite import LineageEntry, ParamRule, Rewrite, Term
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import ModelSlices
from jaxpt.reshape.subclone import random_init, subclone, subclone_rewrite
from jaxpt.reshape.target import Target
from jaxpt.reshape.transform import Transform

__all__ = [
    "AxisMap",
    "LineageEntry",
    "ModelSlices",
    "ParamRule",
    "ReshapeSetting",
    "Rewrite",
    "Scores",
    "Target",
    "Term",
    "Transform",
    "activation_scores",
    "apply",
    "compensated",
    "drop_and_rescale",
    "drop_layers",
    "duplicate",
    "gather_compensation",
    "mask",
    "merge_kv",
    "pad",
    "permute",
    "random_init",
    "reshaped",
    "rewrite_axes",
    "scale",
    "select",
    "subclone",
    "subclone_rewrite",
    "weight_scores",
]
