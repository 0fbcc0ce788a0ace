"""ModelConfig, the axis table, the decoder and its layers, presets."""

from jaxpt.models.batch import Batch
from jaxpt.models.compute import Compute
from jaxpt.models.config import LayerSpec, ModelConfig, RopeConfig, uniform_layers
from jaxpt.models.forward import forward, hidden, hidden_and_routing, unembed
from jaxpt.models.init import init_params
from jaxpt.models.model import Model
from jaxpt.models.moe_config import MoeConfig
from jaxpt.models.size import active_param_count, flops_per_token, param_count
from jaxpt.models.specs import ParamSpec, flatten, map_specs, param_specs, unflatten

__all__ = [
    "Batch",
    "Compute",
    "LayerSpec",
    "Model",
    "ModelConfig",
    "MoeConfig",
    "ParamSpec",
    "RopeConfig",
    "active_param_count",
    "flatten",
    "flops_per_token",
    "forward",
    "hidden",
    "hidden_and_routing",
    "init_params",
    "map_specs",
    "param_count",
    "param_specs",
    "unembed",
    "unflatten",
    "uniform_layers",
]
