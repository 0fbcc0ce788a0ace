"""A student's streams pulled to its teacher's through a learned projection: for students whose depth was cut.

Of each pair of layers, e = mean over features of (n(s) W - n(t))², where s and t are the streams after the student's
and the teacher's layer, n divides a token's stream by its root mean square, and W `[D, D']` is one projection for all
pairs, as in TinyBERT (Jiao et al. 2020, arXiv 1909.10351, equation 8) and Minitron (arXiv 2407.14679). So neither
stream's scale matters, and e is 1 where the projection says nothing. All in float32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig
from jaxpt.objectives.objective import ExtraSpec, FrozenFacts, Group, Inputs, Scheduled, Terms
from jaxpt.objectives.ramp import Ramp
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.optimizers.adamw import AdamW

PLACES = 4  # evenly spaced ones, where no lineage says which layers were dropped
GROUP = "projection"


@dataclass(frozen=True)
class HiddenStates:
    """Options and methods of an objective with a teacher, that may pull hidden states to the teacher's."""

    hidden: Ramp = option(Ramp(0.0), "weight of the loss of hidden states beside the rest; 0: none")
    hidden_layers: tuple[tuple[int, ...], ...] | None = option(
        None, "(student's, teacher's) layer, after which streams are compared; None: where the lineage dropped layers"
    )
    hidden_width: int | None = option(None, "of the teacher's stream; None: the teacher says it")
    projection: Optimizer = field(default_factory=AdamW, metadata={"doc": "what moves the projection"})

    @property
    def pulls(self) -> bool:
        """Whether hidden states ever count."""
        return self.hidden.values != (0.0, 0.0)

    def check_hidden(self) -> None:
        """Raises a JaxptError for an option out of range."""
        if min(self.hidden.values) < 0:
            raise JaxptError(f"hidden is {self.hidden}, it must not be below 0")
        if self.hidden_layers is not None and not (self.hidden_layers and all(len(p) == 2 for p in self.hidden_layers)):
            raise JaxptError("hidden_layers must be pairs (student's layer, teacher's layer), or None")

    def hidden_scheduled(self) -> Mapping[str, Scheduled]:
        """Returns the weight."""
        return {"hidden": self.hidden} if self.pulls else {}

    def groups(self) -> Mapping[str, Group]:
        """Returns the group of the projection, which follows the stage's schedule."""
        return {GROUP: Group(self.projection)} if self.pulls else {}

    def extra_specs(self, model: ModelConfig) -> Mapping[str, ExtraSpec]:
        """Returns the projection `[D, D']`; where both are as wide, what is added to the identity, at first zero."""
        if not self.pulls:
            return {}
        if self.hidden_width is None:
            raise JaxptError("hidden_width is not known before the teacher is; give it, the width of its stream")
        same = self.hidden_width == model.embed
        shape, axes, std = (model.embed, self.hidden_width), ("embed", "teacher_embed"), model.embed**-0.5
        return {
            GROUP: ExtraSpec(shape, axes, init="zeros" if same else "normal", init_std=std, decay=False, group=GROUP)
        }

    def with_teacher(self, model: ModelConfig, teacher: FrozenFacts, where: str) -> Self:
        """Returns the objective with the pairs of layers and the teacher's width, where hidden states count.

        Raises:
            JaxptError: a layer that student or teacher does not have.
        """
        if not self.pulls:
            return self
        sizes = len(model.layers), len(teacher.config.layers)
        pairs = self.hidden_layers or default_pairs(*sizes, teacher.layers)
        for pair in pairs:
            for layer, size, whose in zip(pair, sizes, ("student", "teacher")):
                if not 0 <= layer < size:
                    raise JaxptError(f"{where}.hidden_layers: the {whose} has no layer {layer}, it has 0 to {size - 1}")
        width = teacher.config.embed
        if self.hidden_width not in (None, width):
            raise JaxptError(f"{where}.hidden_width is {self.hidden_width}, the teacher's stream has {width}")
        return replace(self, hidden_layers=tuple(map(tuple, pairs)), hidden_width=width)

    def taps(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the student's and the teacher's layers whose streams are compared."""
        pairs = (self.hidden_layers or ()) if self.pulls else ()
        return tuple(s for s, _ in pairs), tuple(t for _, t in pairs)

    def with_hidden(
        self, terms: Terms, inputs: Inputs, student: Sequence[jax.Array], teacher: Sequence[jax.Array]
    ) -> Terms:
        """Returns `terms` with the share of the loss of hidden states, named `hidden_loss` before its weight.

        Args:
            terms: the rest of the loss.
            inputs: of the microbatch.
            student: streams `[B, S, D]` after the layers of `taps`.
            teacher: streams `[B, S, D']` likewise.
        """
        b, projection = inputs.batch, inputs.extra[GROUP]
        assert b is not None
        assert isinstance(projection, jax.Array)
        if projection.shape[0] == projection.shape[1]:
            projection = projection + jnp.eye(projection.shape[0])
        weights = b["loss_weights"] / inputs.weight_sum
        loss = jnp.zeros((), jnp.float32)
        for s, t in zip(student, teacher):
            said = jnp.einsum("bsd,de->bse", normal(s), projection, precision=inputs.compute.precision)
            error = jnp.mean(jnp.square(said - normal(jax.lax.stop_gradient(t))), axis=-1)
            loss += jnp.sum(weights * error) / len(student)
        return Terms(terms.loss + inputs.scheduled["hidden"] * loss, {**terms.named, "hidden_loss": loss}, terms.sums)


def normal(x: jax.Array) -> jax.Array:
    """Returns streams `[..., D]` in float32, each divided by its root mean square."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


def default_pairs(student: int, teacher: int, origin: Sequence[int] | None) -> tuple[tuple[int, int], ...]:
    """Returns pairs of (student's, teacher's) layers whose streams should agree.

    Where layers were dropped, the layer before the gap takes over what the dropped ones did: it is compared with the
    last of them (with its own origin, where the first layers were dropped). Without a gap, or where no origin is known,
    up to `PLACES` layers at even distances, the last among them.

    Args:
        student: number of layers.
        teacher: number of layers.
        origin: the teacher's layer that each of the student's was made of, if it is known.
    """
    if origin is not None:
        after = [*origin[1:], teacher]
        gaps = [(i, stop - 1) for i, (layer, stop) in enumerate(zip(origin, after)) if stop > layer + 1]
        if origin[0] > 0 and not (gaps and gaps[0][0] == 0):
            gaps = [(0, origin[0]), *gaps]
        if gaps:
            return tuple(gaps)
    count = min(PLACES, student)
    places = [round((i + 1) * student / count) - 1 for i in range(count)]
    return tuple((place, max(0, round((place + 1) * teacher / student) - 1)) for place in places)
