"""Hugging Face directories written by our own export from random parameters."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from jaxpt.interop import export_bundle
from jaxpt.models import Model, MoeConfig, flatten, param_specs, unflatten
from tests.models.tiny import VARIANTS

# what the family fixes and the variants of other tests do not have
FACTS = {
    "qwen3": {"qk_norm_eps": None},
    "olmo2": {"norm_cast_order": "gain_before_cast"},
    "moe_mixed": {"moe": MoeConfig(4, 2, 12, 20, True, "softmax"), "qk_norm": "none"},
}
FAMILY_OF = {"llama": "llama", "tied": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "olmo2": "olmo2"}
FAMILY_OF |= {"moe": "qwen3_moe", "moe_mixed": "qwen2_moe"}


def drawn(c):
    """Parameters drawn by numpy, which has nothing to compile."""
    rng, specs = np.random.default_rng(0), flatten(param_specs(c))
    return unflatten({path: rng.normal(0, 0.2, spec.shape).astype("float32") for path, spec in specs.items()})


def hf_directory(folder, name="llama", family=None, **changes):
    """`folder/hf`, a variant of the test models in the form of `family`."""
    shutil.copytree(_made(name, family or FAMILY_OF[name], tuple(changes.items())), folder / "hf")
    return folder / "hf"


@functools.cache
def _made(name, family, changes):
    c = VARIANTS[name].replace(**dict(changes))
    return export_bundle(Model(c, drawn(c)), _folder() / f"{len(list(_folder().iterdir()))}", family)


@functools.cache
def _kept():
    return tempfile.TemporaryDirectory()


def _folder():
    return Path(_kept().name)


def edit(hf, **changes):
    """Changes keys of a config.json."""
    values = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**values, **changes}))
