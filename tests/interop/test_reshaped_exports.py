"""Every family through every transform: exported, and transformers computes the same, or reshape says why not."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.errors import JaxptError
from jaxpt.interop import FAMILIES, export_bundle, load_hf
from jaxpt.interop.find_family import holding
from jaxpt.models import flatten, forward
from jaxpt.reshape.apply import reshaped
from jaxpt.reshape.sequence import outcome_of
from jaxpt.reshape.setting import ReshapeSetting
from jaxpt.reshape.stream import InMemory
from jaxpt.reshape.target import Target
from jaxpt.reshape.transforms.average_experts import AverageExperts
from jaxpt.reshape.transforms.drop_layers import DropLayers
from jaxpt.reshape.transforms.grow_depth import GrowDepth
from jaxpt.reshape.transforms.grow_width import GrowWidth
from jaxpt.reshape.transforms.merge_kv import MergeKv
from jaxpt.reshape.transforms.subclone import Subclone
from jaxpt.reshape.transforms.upcycle import Upcycle
from jaxpt.reshape.upcycle import Upcycling
from tests.interop.foreign import logits
from tests.interop.opened import open_by_transformers
from tests.interop.test_config_keys import small

missing = [n for n in ("torch", "transformers") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}: install jaxpt[parity]"),
]

CUT = Subclone(selection="uniform", depth="first")
PAD, COPY = GrowWidth(), GrowWidth("duplicate")
# what is done to a model of embed 24, 6 heads of 4, 2 kv heads, mlp 20, 2 layers
DONE = {
    "cut embed to 20": (CUT, {"embed": 20}),  # which the six heads do not divide
    "cut embed to 12": (CUT, {"embed": 12}),
    "cut embed and heads": (CUT, {"embed": 12, "heads": 3, "kv_heads": 1}),
    "cut kv_heads": (CUT, {"kv_heads": 1}),
    "cut head_dim": (CUT, {"head_dim": 2}),
    "cut layers": (CUT, {"layers": 1}),
    "cut mlp": (CUT, {"mlp": 12}),
    "drop layer 0": (DropLayers((0,)), {}),
    "merge kv_heads": (MergeKv(), {"kv_heads": 1}),
    "pad embed to 30": (PAD, {"embed": 30}),
    "pad embed to 32": (PAD, {"embed": 32}),
    "copy embed to 48": (COPY, {"embed": 48}),
    "copy embed and heads": (COPY, {"embed": 48, "heads": 12}),
    "grow mlp": (PAD, {"mlp": 28}),
    "copy heads": (COPY, {"heads": 12}),
    "copy kv_heads": (COPY, {"kv_heads": 4, "heads": 12}),
    "grow head_dim to 8": (PAD, {"head_dim": 8}),
    "grow head_dim to 6": (PAD, {"head_dim": 6}),
    "deepen": (GrowDepth(), {"layers": 3}),
}
MIXTURE = Upcycling(4, 2, keep=1.0)
UPCYCLED = {
    "upcycle": (Upcycle(MIXTURE), {}),
    "upcycle one layer": (Upcycle(MIXTURE, (1,)), {}),
    "upcycle with shared experts": (Upcycle(dataclasses.replace(MIXTURE, shared_mlp=4)), {}),
    "upcycle by route": (Upcycle(dataclasses.replace(MIXTURE, granularity=2, scale="route")), {}),
    "upcycle with a selection bias": (Upcycle(dataclasses.replace(MIXTURE, selection_bias=True)), {}),
}
EXPERTS = {
    "cut experts": (CUT, {"experts": 3}),
    "cut expert_mlp": (CUT, {"expert_mlp": 4}),
    "grow expert_mlp": (PAD, {"expert_mlp": 24}),
}
AVERAGE = {"average experts": (AverageExperts(), {})}
SHARED = {"cut shared_mlp": (CUT, {"shared_mlp": 6}), "grow shared_mlp": (PAD, {"shared_mlp": 12})}
MIXTURES = {
    "mixtral": EXPERTS | AVERAGE,
    "olmoe": EXPERTS | AVERAGE,
    "qwen3_moe": EXPERTS | AVERAGE,
    "qwen2_moe": EXPERTS | SHARED,
}

# which other family holds it, or why none does
OTHERWISE = {
    "llama": {
        "cut embed to 20": "mistral",
        "pad embed to 32": "mistral",
        "upcycle": "mixtral",
        "upcycle by route": "mixtral",
        "upcycle one layer": "qwen2_moe",
        "upcycle with shared experts": "qwen2_moe",
        "upcycle with a selection bias": "mixtral and qwen2_moe: moe.selection_bias=True; upcycle with selection_bias=",
    },
    "qwen2": {
        **dict.fromkeys(UPCYCLED, "qwen2_moe"),
        "upcycle with a selection bias": "qwen2_moe: moe.selection_bias=True; upcycle with selection_bias=False",
    },
    "qwen3": {
        **dict.fromkeys(UPCYCLED, "qwen3_moe"),
        "upcycle with shared experts": "qwen3_moe: moe.shared_mlp=4; upcycle with shared_mlp=0",
        "upcycle with a selection bias": "qwen3_moe: moe.selection_bias=True; upcycle with selection_bias=False",
    },
    "olmo2": dict.fromkeys(UPCYCLED, "it has no mixtures of experts; leave upcycle out"),
    "gemma2": {
        **dict.fromkeys(UPCYCLED, "it has no mixtures of experts; leave upcycle out"),
        "cut embed to 20": "hidden_size=20 must be a multiple of num_attention_heads=6; make target.embed 18 or 24",
        "pad embed to 32": "hidden_size=32 must be a multiple of num_attention_heads=6; make target.embed 30 or 36",
    },
    "mixtral": {"average experts": "llama"},
    "qwen3_moe": {"average experts": "qwen3"},
    "olmoe": {
        "cut embed to 20": "heads 6 x head_dim 4 = 24 must be hidden_size=20; change target.embed and target.heads",
        "cut embed to 12": "= 24 must be hidden_size=12",
        "cut kv_heads": "heads 3 x head_dim 4 = 12 must be hidden_size=24",
        "cut head_dim": "= 12 must be hidden_size=24",
        "pad embed to 30": "= 24 must be hidden_size=30",
        "pad embed to 32": "= 24 must be hidden_size=32",
        "copy embed to 48": "= 24 must be hidden_size=48",
        "copy heads": "= 48 must be hidden_size=24",
        "copy kv_heads": "= 48 must be hidden_size=24",
        "grow head_dim to 8": "= 48 must be hidden_size=24",
        "average experts": "the family is one of mixtures of experts, the model has no model.moe",
    },
}
OTHERWISE["mistral"] = {n: o for n, o in OTHERWISE["llama"].items() if "embed" not in n}
NO_FORMULA = (
    "rope.inv_freq (an explicit frequency table) cannot be written in a Hugging Face config; make target.head_dim a"
)
TOKENS = np.random.default_rng(0).integers(0, 31, (1, 9))


class Source:
    """A family's model as transformers made it, what we read of it, and the logits of transformers."""

    def __init__(self, kind, folder):
        model = small(kind)
        model.save_pretrained(folder)
        self.kind, self.config, self.model = kind, model.config, load_hf(folder)
        self.logits = logits(model, TOKENS)


@pytest.fixture(scope="module", params=FAMILIES)
def source(request, tmp_path_factory):
    return Source(request.param, tmp_path_factory.mktemp(request.param) / "hf")


def carried_out(model, transform, target):
    """What the transform says of the result beforehand, the rewritten model, and whether it is to compute the same."""
    setting = ReshapeSetting(Target(**target), log=lambda line: None)
    said = outcome_of(model.config, [transform], setting)
    exact = True
    for rewrite in transform.rewrites(InMemory(model.config, model.params), setting):
        model, exact = reshaped(model, rewrite), exact and bool(rewrite.entry.get("exact"))
    return said, model, exact


def every_case(source):
    expected = {"grow head_dim to 6": NO_FORMULA, **OTHERWISE.get(source.kind, {})}
    for name, (transform, target) in {**DONE, **MIXTURES.get(source.kind, UPCYCLED)}.items():
        yield name, expected.get(name, source.kind), *carried_out(source.model, transform, target)


def exported(source, name, want, outcome, made, folder):
    """The export, or None where no family holds the model; what was said beforehand is what holds afterwards."""
    assert outcome.replace(layers=made.config.layers) == made.config, name
    said = holding(outcome, source.kind)
    if want not in FAMILIES:
        assert said.startswith("export: no family can hold the result"), (name, said)
        assert want in said, (name, said)
        assert said.splitlines()[1].startswith(f"  {source.kind} (its own)"), (name, said)
        with pytest.raises(JaxptError, match=rf"no family can hold this model; {source.kind} \(its own\)"):
            export_bundle(made, folder)
        return None
    assert said.startswith(f"export: the result can be held by {want}"), (name, said)
    export_bundle(made, folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == want
    return folder


def close(ours, theirs, name):
    assert np.abs(ours - theirs).max() <= 2e-4 * np.abs(theirs).max(), name


def test_what_reshape_makes_is_exported_and_opened_or_refused_at_once(source, tmp_path):
    """A transform that keeps the function gives the logits that transformers gave before; a cut keeps its bits."""
    for name, want, outcome, made, exact in every_case(source):
        folder = exported(source, name, want, outcome, made, tmp_path / name)
        if folder is None:
            continue
        if exact:
            close(opened_logits(folder), source.logits, name)
        elif load_hf(folder).config == made.config:
            before, after = flatten(made.params), flatten(load_hf(folder).params)
            assert all(np.array_equal(before[path], after[path]) for path in before), name


@pytest.mark.slow
def test_what_reshape_makes_computes_in_transformers_what_it_computes_here(source, tmp_path):
    for name, want, outcome, made, _ in every_case(source):
        folder = exported(source, name, want, outcome, made, tmp_path / name)
        if folder is not None:
            with jax.disable_jit():
                ours = np.asarray(forward(made.config, made.params, jnp.array(TOKENS)))
            close(ours, opened_logits(folder), name)


def opened_logits(folder):
    return logits(open_by_transformers(folder, attn_implementation="eager", experts_implementation="eager"), TOKENS)
