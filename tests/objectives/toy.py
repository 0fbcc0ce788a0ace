"""An objective that uses all of the contract, as a file that a user may write; tests copy it out of the repository."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.models import forward, hidden, unembed
from jaxpt.objectives.objective import ExtraSpec, Group, Inputs, Objective, Progress, Terms
from jaxpt.optim.optimizers.adamw import AdamW


@dataclass(frozen=True)
class Toy(Objective):
    """Learns from a teacher through gates and noise, while a multiplier pulls the gates' mean to a target."""

    teacher: str = option(doc="a bundle, a checkpoint or a Hugging Face directory")
    temperature: float = option(2.0, "of the divergence at the stage's first step; it falls towards 1")
    target: float = option(0.5, "mean of the gates over mlp")
    noise: float = option(0.1, "deviation of the noise on the stream, one draw per step")
    rates: tuple[float, ...] = option((3e-2, 0.1), "learning rates of the gates and of the multipliers")

    def extra_specs(self, model) -> Mapping[str, ExtraSpec]:
        """Gates over the stream and the neurons, and two multipliers."""
        stacked = (len(model.layers), model.mlp)
        return {
            "gates/embed": ExtraSpec((model.embed,), ("embed",), init="ones", group="gates"),
            "gates/mlp": ExtraSpec(stacked, ("layers", "mlp"), init_mean=1.0, decay=False, group="gates"),
            "multipliers": ExtraSpec((2,), ("constraints",), init="zeros", decay=False, group="multipliers"),
        }

    def groups(self) -> Mapping[str, Group]:
        """The gates follow the stage's schedule, the multipliers ascend at a constant rate."""
        gates, multipliers = self.rates
        return {
            "gates": Group(AdamW(learning_rate=gates, clip_norm=0.5)),
            "multipliers": Group(AdamW(learning_rate=multipliers, clip_norm=None), True, lambda progress: 1.0),
        }

    def frozen(self) -> Mapping[str, str]:
        """The teacher."""
        return {"teacher": self.teacher}

    def scheduled(self):
        """The temperature."""
        fall: float = self.temperature - 1

        def temperature(progress: Progress) -> float:
            return 1 + fall * (1 - progress.share)

        return {"temperature": temperature}

    def first_pass(self, inputs: Inputs) -> dict[str, jax.Array]:
        """Power of every channel of the stream, over the global batch."""
        return {"power": _power(inputs, _stream(inputs))}

    def terms(self, inputs: Inputs) -> Terms:
        """Divergence from the teacher, and a penalty on channels that are loud in the global batch."""
        b = inputs.batch
        draw = jax.random.normal(inputs.key, (inputs.model.embed,))
        x = _stream(inputs)
        gated = x * inputs.extra["gates"]["embed"] * (1 + self.noise * draw)
        t = inputs.scheduled["temperature"]
        student = jax.nn.log_softmax(unembed(inputs.model, inputs.params, gated, inputs.compute) / t)
        config, params = inputs.frozen["teacher"]
        logits = forward(config, params, b["tokens"], b["segment_ids"], b["positions"], inputs.compute)
        teacher = jax.nn.log_softmax(logits / t)
        weights = b["loss_weights"] / inputs.weight_sum
        kl = t**2 * jnp.sum(weights * jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1))
        loud = jnp.sum(inputs.totals["power"] * _power(inputs, x))
        sums = {"tokens": jnp.sum(b["loss_weights"]), "temperature": t * jnp.sum(weights)}
        return Terms(kl + 0.01 * loud, {"kl": kl, "loud": loud}, sums)

    def step_terms(self, inputs: Inputs) -> Terms:
        """The Lagrangian of the gates' mean."""
        off = jnp.mean(inputs.extra["gates"]["mlp"]) - self.target
        a, b = inputs.extra["multipliers"]
        return Terms(a * off + b * off**2, {"off_target": off})

    def report(self, sums):
        """What was summed."""
        return {"toy/tokens": sums["tokens"], "toy/temperature": sums["temperature"]}


def _stream(inputs: Inputs) -> jax.Array:
    b = inputs.batch
    return hidden(inputs.model, inputs.params, b["tokens"], b["segment_ids"], b["positions"], inputs.compute)


def _power(inputs: Inputs, x: jax.Array) -> jax.Array:
    weights = inputs.batch["loss_weights"] / inputs.weight_sum
    return jnp.einsum("bs,bsd->d", weights, jnp.square(x), precision="highest")
