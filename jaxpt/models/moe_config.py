"""What a mixture-of-experts layer is: how many experts, how wide, how they are chosen and weighed."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxpt.errors import JaxptError, nearest

RouterWeights = Literal["softmax", "renormalised"]


@dataclass(frozen=True)
class MoeConfig:
    """The facts of a model's mixture-of-experts layers (one set for all layers with `LayerSpec.ffn="moe"`).

    `mlp` is one expert's width, `shared_mlp` the width of all shared experts together (0: none), `shared_score` whether
    a sigmoid of the token scales what they give (Qwen2-MoE). `weights`: the chosen experts' softmax probabilities over
    all experts as they are ("softmax": softmax, then top-k), or divided by their sum ("renormalised", which equals
    top-k, then softmax); either is multiplied by `route_scale`. `selection_bias` adds a bias per expert to the choice,
    not to the weight (Wang et al. 2024, arXiv 2408.15664). `capacity_factor` None drops no token; a number gives each
    expert that multiple of its even share and drops the later tokens beyond it (Fedus et al. 2021, eq. 3).

    Raises:
        JaxptError: a value out of range, by name.
    """

    experts: int
    experts_per_token: int
    mlp: int
    shared_mlp: int = 0
    shared_score: bool = False
    weights: RouterWeights = "renormalised"
    route_scale: float = 1.0
    selection_bias: bool = False
    capacity_factor: float | None = None

    def __post_init__(self) -> None:
        for name, low in (("experts", 1), ("experts_per_token", 1), ("mlp", 1), ("shared_mlp", 0)):
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise JaxptError(f"model.moe.{name} is {value!r}, it must be a whole number of at least {low}")
        if self.experts_per_token > self.experts:
            raise JaxptError(
                f"model.moe.experts_per_token is {self.experts_per_token}, there are only {self.experts} experts"
            )
        known = get_args(RouterWeights)
        if self.weights not in known:
            hint = nearest(self.weights, known)
            raise JaxptError(f"model.moe.weights is {self.weights!r}, it must be one of {', '.join(known)}{hint}")
        if self.capacity_factor is not None and not self.capacity_factor > 0:
            raise JaxptError(f"model.moe.capacity_factor is {self.capacity_factor!r}, it must be above 0 (or None)")
        if self.shared_score and not self.shared_mlp:
            raise JaxptError("model.moe.shared_score needs shared experts; set --config.model.moe.shared_mlp")
