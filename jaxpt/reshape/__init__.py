"""Transforms: ops on named axes, importance, subcloning, depth, kv-head merging, compensation."""

from jaxpt.reshape.apply import apply, transform
from jaxpt.reshape.axes import AxisMap, duplicate, mask, pad, permute, plan_axes, scale, select
from jaxpt.reshape.calibrate import activation_scores
from jaxpt.reshape.compensate import compensated, gather_compensation
from jaxpt.reshape.datafree import weight_scores
from jaxpt.reshape.depth import drop_and_rescale, drop_layers
from jaxpt.reshape.merge import merge_kv
from jaxpt.reshape.plan import Plan, Rule, Term
from jaxpt.reshape.scores import Scores
from jaxpt.reshape.subclone import random_init, subclone
from jaxpt.reshape.target import Target

__all__ = [
    "AxisMap",
    "Plan",
    "Rule",
    "Scores",
    "Target",
    "Term",
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
    "plan_axes",
    "random_init",
    "scale",
    "select",
    "subclone",
    "transform",
    "weight_scores",
]
