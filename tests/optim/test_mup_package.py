"""µP's width rules against the package `mup`, for a torch model of the same shape."""

import warnings

import pytest

from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.mup import BaseShape, MupConfig, initial_specs, parameterised, scaling
from jaxpt.models.specs import flatten
from jaxpt.optim.multipliers import multipliers

pytestmark = pytest.mark.parity
SHAPES = [((64, 4, 160), (16, 1, 80)), ((96, 3, 64), (32, 1, 64))]  # (embed, heads, mlp), and the base's


def model_of(embed, heads, mlp):
    return ModelConfig(64, embed, heads, heads, 16, mlp, uniform_layers(1))


def torch_model(torch, mup, embed, heads, mlp):
    """The matrices of a Llama block with our names, without a forward pass; torch stores a matrix as [out, in]."""

    class Gain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(embed))

    linear = lambda i, o: torch.nn.Linear(i, o, bias=False)  # noqa: E731
    parts = {
        "embed/table": torch.nn.Embedding(64, embed),
        **{f"blocks/dense/{n}": linear(embed, heads * 16) for n in "qkv"},
        "blocks/dense/o": linear(heads * 16, embed),
        "blocks/dense/gate": linear(embed, mlp),
        "blocks/dense/up": linear(embed, mlp),
        "blocks/dense/down": linear(mlp, embed),
        **{name: Gain() for name in ("blocks/dense/attn_norm", "blocks/dense/mlp_norm", "final_norm")},
        "head": mup.MuReadout(embed, 64, bias=False),
    }
    return torch.nn.ModuleDict({name.replace("/", ":"): part for name, part in parts.items()})


@pytest.mark.parametrize(("shape", "base"), SHAPES)
def test_rates_decay_deviations_and_the_head_are_those_of_the_mup_package(shape, base):
    torch = pytest.importorskip("torch")
    mup = pytest.importorskip("mup", reason="mup is not installed: pip install --no-deps mup")
    theirs = torch_model(torch, mup, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wider = tuple(2 * n for n in base)  # which dimensions grow
        mup.set_base_shapes(theirs, torch_model(torch, mup, *base), delta=torch_model(torch, mup, *wider))
        groups = mup.MuAdamW(theirs.parameters(), lr=1.0, weight_decay=1.0).param_groups
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    model = model_of(*shape)
    scale = scaling(MupConfig(BaseShape(embed=base[0], heads=base[1], mlp=base[2], layers=1)), model)
    parts = {name.replace(":", "/"): part for name, part in theirs.items()}
    specs = flatten(initial_specs(model, scale))
    assert specs.keys() == parts.keys()
    for path, spec in specs.items():
        weight = parts[path].weight
        ours, (rate, decay) = multipliers(spec, "adam", scale), rates[id(weight)]
        assert ours.learning_rate == pytest.approx(rate), path
        if spec.decay:  # gains decay there
            assert ours.weight_decay == pytest.approx(decay), path
        if spec.init == "normal" and spec.residual != "writes":
            assert spec.init_std == pytest.approx(their_std(mup, torch, weight), rel=0.05), path
    assert parameterised(model, scale).logit_scale == pytest.approx(1 / parts["head"].width_mult())


def their_std(mup, torch, weight):
    torch.manual_seed(0)
    mup.init.normal_(weight, std=0.02)
    return float(weight.detach().std())
