"""One model at several widths: its base shape with every width multiplied, at one depth."""

import dataclasses
from dataclasses import dataclass

from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig
from jaxpt.models.init import init_params
from jaxpt.models.mup import MupConfig, Scaling, initial_specs, parameterised, scaling
from jaxpt.models.params import Params
from jaxpt.models.specs import param_specs
from jaxpt.optim.chain import BuiltOptimizer, make_optimizer
from jaxpt.optim.optimizer import Optimizer

PARAMETERISATIONS = ("mup", "standard")


@dataclass(frozen=True)
class Wide:
    """A model of one width: `scaling` None is standard parameterisation."""

    model: ModelConfig
    scaling: Scaling | None

    @property
    def width(self) -> int:
        """Of the residual stream."""
        return self.model.embed

    def first(self, seed: int) -> Params:
        """Returns its first parameters."""
        return init_params(self.model, seed, specs=initial_specs(self.model, self.scaling))

    def optimizer(self, config: Optimizer) -> BuiltOptimizer:
        """Returns an optimizer with its multipliers."""
        return make_optimizer(config, param_specs(self.model), self.scaling)


def at_width(model: ModelConfig, mup: MupConfig, width: int, layers: int, kind: str) -> Wide:
    """Returns `model` at another width and depth.

    Args:
        model: says everything but sizes; in standard parameterisation.
        mup: its base shape is what is made wider; heads keep their width and their number per kv head.
        width: of the residual stream.
        layers: how many of the model's layers there are, the first ones; taken for the base's depth, as fewer layers
            than the base has would count for more each, and widths are what is compared.
        kind: of `PARAMETERISATIONS`.

    Raises:
        JaxptError: a width to which a whole multiple of the base's heads does not belong, too many layers.
    """
    base = mup.base
    scaling(mup, model)  # checks that the base is complete
    assert base.embed is not None
    assert base.heads is not None
    if not 0 < layers <= len(model.layers):
        raise JaxptError(f"--layers={layers}: the model has {len(model.layers)}")
    if width * base.heads % (base.embed * model.group) or width < 1:
        raise JaxptError(
            f"--widths: {width} is not a width of the base shape's kind: embed {base.embed} has {base.heads} heads, "
            f"{model.group} for each kv head; take multiples of {base.embed}"
        )
    times = width / base.embed
    heads = width * base.heads // base.embed
    sizes = {"embed": width, "heads": heads, "kv_heads": heads // model.group, "layers": model.layers[:layers]}
    if base.mlp is not None:
        sizes["mlp"] = round(base.mlp * times)
    moe = model.moe
    if moe is not None and base.expert_mlp is not None:
        shared = round((base.shared_mlp or 0) * times)
        moe = dataclasses.replace(moe, mlp=round(base.expert_mlp * times), shared_mlp=shared)
    wide = model.replace(**sizes, head_dim=base.head_dim or model.head_dim, moe=moe)
    if kind == "standard":
        return Wide(wide, None)
    scale = scaling(dataclasses.replace(mup, base=dataclasses.replace(base, layers=layers)), wide)
    return Wide(parameterised(wide, scale), scale)
