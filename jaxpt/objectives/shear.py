"""Mask training (Sheared LLaMA, Xia et al. 2023, arXiv 2310.06694): gates on a model's axes are learned beside its
weights, while a Lagrangian holds how much they leave to an exact target shape, or to a budget.

The loss is that of the masked model (`jaxpt.models.masks`), next-token or distilled. Gates descend on it and on
Σ λ₁ (s - t) + λ₂ (s - t)², the multipliers λ ascend (`jaxpt.reshape.constraint`). Each step draws one mask from the
run's seed and the step, for all microbatches and hosts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt.config.choice import choice_option, option
from jaxpt.errors import JaxptError, nearest
from jaxpt.models.config import ModelConfig
from jaxpt.models.masks import gate_axes, with_mask
from jaxpt.models.params import Params, branch
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.objective import PARENT, ExtraSpec, Group, Inputs, Progress, Scheduled, Sums, Terms
from jaxpt.objectives.ramp import Ramp
from jaxpt.optim.optimizer import Optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.reshape.budget import LAST, Budget, expected_lengths, rounded_lengths, shape_for
from jaxpt.reshape.constraint import lagrangian, sparsities, targets
from jaxpt.reshape.gate import Gate
from jaxpt.reshape.masks import final_masks
from jaxpt.reshape.target import Target, lengths, lengths_of

GATES, MULTIPLIERS = "gates", "multipliers"  # the groups, and what the paths of their things begin with
NO_TARGET, NO_BUDGET = Target(), Budget()
OF_A_BUDGET = ("embed", "layers", "kv_heads", "mlp", "experts", "expert_mlp", "shared_mlp")  # unless `axes` says so


def _adamw() -> AdamW:
    return AdamW(learning_rate=1.0, weight_decay=0.0)


@dataclass(frozen=True)
class MaskTraining(Distill):
    """The loss of the model under learned masks, held to a shape or a budget.

    The teacher, where `alpha` is above 0 and none is given, is the unmasked parent as the run started from it.
    """

    gate: Gate = choice_option(Gate, "what a mask is made of while it is learned")
    target: Target = option(NO_TARGET, "lengths that masks end with exactly; those left out are not masked")
    budget: Budget = option(NO_BUDGET, "instead of a target: how large the cut model may be; the shape is found")
    axes: tuple[str, ...] | None = option(None, "what is masked; None: all that the target cuts, or a budget may")
    warmup: float = option(0.2, "share of the stage over which sparsity targets rise from 0")
    measured: Literal["target", "current"] = option(
        "target", "evaluations see masks of the shape in the end, or of the sparsity expected now"
    )
    gates: Optimizer = field(default_factory=_adamw, metadata={"doc": "what moves the gates"})
    multipliers: Optimizer = field(default_factory=_adamw, metadata={"doc": "what moves the multipliers, upwards"})
    alpha: Ramp = option(Ramp(0.0), "share of the divergence from the teacher in the loss; 0: none is opened")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.target == NO_TARGET) == (not self.budget.given):
            raise JaxptError("target: give lengths (target.mlp=…), or a budget (budget.parameters=…), and not both")
        if not 0 <= self.warmup <= 1:
            raise JaxptError(f"warmup is {self.warmup}, it must lie between 0 and 1")
        if self.target.head_dim is not None:
            raise JaxptError("target.head_dim is no axis of masks; cut it with subclone before or after")
        for axis in self.axes or ():
            if axis not in LAST:
                raise JaxptError(f"axes has {axis!r}, which cannot be masked{nearest(axis, LAST)}")

    def frozen(self) -> Mapping[str, str]:
        """Returns the teacher: without another path the model that the run started from."""
        return dict.fromkeys(super().frozen(), self.teacher or PARENT)

    def masked_axes(self, model: ModelConfig) -> tuple[str, ...]:
        """Returns the axes that have gates, in the order of `jaxpt.models.masks`.

        Raises:
            JaxptError: an axis or a length that the model does not have, or nothing to cut.
        """
        known = gate_axes(model)
        if not self.budget.given:
            want, have = lengths(model, self.target), lengths_of(model)
            cut = {axis for axis in known if axis != "heads" and want[axis] != have[axis]}
            cut |= {"heads"} if want["heads"] // want["kv_heads"] != model.group else set()
            if self.axes is not None and set(self.axes) != cut:
                raise JaxptError(f"axes are {', '.join(self.axes)}, the target cuts {', '.join(sorted(cut)) or 'none'}")
        else:
            cut = set(OF_A_BUDGET if self.axes is None else self.axes) & set(known)
            for axis in set(self.axes or ()) - set(known):
                raise JaxptError(f"axes has {axis!r}, the model has no such axis")
        if not cut:
            raise JaxptError("target has the lengths of the model: there is nothing to mask")
        return tuple(axis for axis in known if axis in cut)

    def extra_specs(self, model: ModelConfig) -> Mapping[str, ExtraSpec]:
        """Returns the gates by axis, and two multipliers for each constraint."""
        mean, std = self.gate.first
        specs, shapes, axes = {}, gate_axes(model), self.masked_axes(model)
        for axis in axes:
            names = {"embed": ("embed",), "layers": ("layers",), "expert_mlp": ("layers", "experts", axis)}
            of = names.get(axis, ("layers", axis))
            specs[f"{GATES}/{axis}"] = ExtraSpec(
                shapes[axis], of, init="normal" if std else "zeros", init_std=std, init_mean=mean, decay=False,
                group=GATES, bounds=self.gate.bounds,
            )  # fmt: skip
        for name in targets(model, axes, lengths_of(model), self._budget):
            specs[f"{MULTIPLIERS}/{name}"] = ExtraSpec((2,), ("power",), init="zeros", decay=False, group=MULTIPLIERS)
        return specs

    def groups(self) -> Mapping[str, Group]:
        """Returns the groups of gates and multipliers, both of which follow the stage's schedule."""
        own = {GATES: Group(self.gates), MULTIPLIERS: Group(self.multipliers, ascent=True)}
        return {**super().groups(), **own}

    def scheduled(self) -> Mapping[str, Scheduled]:
        """Returns which share of its target the sparsity is to have, and the progress itself."""

        def rising(progress: Progress) -> float:
            return min(1.0, progress.share / self.warmup) if self.warmup else 1.0

        return {**super().scheduled(), "sparsity": rising, "progress": lambda progress: progress.share}

    def describe(self) -> list[str]:
        """Returns what a plan shows of it."""
        asked = {k: v for k, v in vars(self.target).items() if v is not None} or self.budget.given
        to = ", ".join(f"{name} {value:,}" for name, value in asked.items())
        return [f"masks ({self.gate.name}) to {to}, sparsity rising over {self.warmup:.0%}", *super().describe()]

    def first_pass(self, inputs: Inputs) -> Sums | None:
        """Returns that of the masked model."""
        return super().first_pass(self._masked(inputs))

    def terms(self, inputs: Inputs) -> Terms:
        """Returns those of the masked model."""
        return super().terms(self._masked(inputs))

    def step_terms(self, inputs: Inputs) -> Terms:
        """Returns the Lagrangian, named `lagrangian`; by constraint `sparsity`, `sparsity_target` and multipliers."""
        model, trained = inputs.model, branch(inputs.extra, GATES)
        keep = self._retention(trained, inputs.scheduled["progress"])
        multipliers = branch(inputs.extra, MULTIPLIERS)
        want = lengths_of(model) if self._budget else lengths(model, self.target)
        loss = jnp.zeros(())
        named: dict[str, jax.Array] = {}
        of = sparsities(model, keep, self._budget)
        for name, target in targets(model, tuple(keep), want, self._budget).items():
            now, pair = target * inputs.scheduled["sparsity"], jnp.asarray(multipliers[name])
            loss += lagrangian(of[name], now, pair)
            named |= {f"sparsity/{name}": jnp.mean(of[name]), f"sparsity_target/{name}": now}
            named |= {f"multiplier/{name}/linear": pair[0], f"multiplier/{name}/quadratic": pair[1]}
        named |= {f"sparsity/{axis}": 1 - jnp.mean(each) for axis, each in keep.items()}
        penalty = self.gate.penalty(keep)
        if penalty is not None:
            loss, named = loss + penalty, {**named, "binary_penalty": penalty}
        return Terms(loss, {**named, "lagrangian": loss})

    def evaluated(
        self, model: ModelConfig, params: Params, extra: Mapping[str, np.ndarray], progress: Progress
    ) -> Params:
        """Returns the parameters under the final masks of the gates as they are; without gates the parameters."""
        masks, _ = self.masks(model, extra, progress.share)
        return with_mask(params, masks)

    def live(self, metrics: Mapping[str, float]) -> Mapping[str, str]:
        """Returns each constraint's sparsity against its target now, in percent, its multipliers, and the mixture."""

        def under(prefix: str) -> dict[str, float]:
            return {name.removeprefix(prefix): v for name, v in metrics.items() if name.startswith(prefix)}

        sparsity, multipliers, mixture = (under(f"{p}/") for p in ("train/sparsity", "train/multiplier", "data/wanted"))
        out = {}
        for name, now in under("train/sparsity_target/").items():
            linear, quadratic = (multipliers[f"{name}/{power}"] for power in ("linear", "quadratic"))
            out[name] = f"{sparsity[name]:.0%}/{now:.0%} λ {linear:+.2g} {quadratic:+.2g}"
        shares = " ".join(f"{name} {share:.0%}" for name, share in mixture.items())
        return {**out, "mixture": shares} if len(mixture) > 1 else out

    def masks(
        self, model: ModelConfig, extra: Mapping[str, np.ndarray], share: float = 1.0
    ) -> tuple[dict[str, np.ndarray], str | None]:
        """Returns final masks with exact counts, and a line where a budget is missed by more than 1 %.

        Args:
            model: that is trained.
            extra: gates and multipliers by path, on the host.
            share: of the stage that is done.
        """
        trained = {p.removeprefix(f"{GATES}/"): v for p, v in extra.items() if p.startswith(f"{GATES}/")}
        want, line = self.shape(model, trained, share)
        values = {axis: v for axis, theta in trained.items() if (v := self.gate.left(theta)) is not None}
        return final_masks(model, want, trained, {a: np.asarray(v) for a, v in values.items()} or None), line

    def shape(
        self, model: ModelConfig, trained: Mapping[str, np.ndarray], share: float = 1.0
    ) -> tuple[dict[str, int], str | None]:
        """Returns every length that the final masks have, and a line where a budget is missed by more than 1 %."""
        if not self._budget and self.measured == "target":
            return lengths(model, self.target), None
        keep = self._retention({a: jnp.asarray(v) for a, v in trained.items()}, jnp.float32(share))
        expected = expected_lengths(model, {axis: np.asarray(each) for axis, each in keep.items()})
        if self.measured == "current" and share < 1:
            return rounded_lengths(model, expected), None
        if not self._budget:
            return lengths(model, self.target), None
        return shape_for(model, expected, self.budget, trained.get("layers"))

    def still(self, extra: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the masks as they are, soft, without anything random."""
        gates = {p.removeprefix(f"{GATES}/"): v for p, v in extra.items() if p.startswith(f"{GATES}/")}
        return {axis: np.asarray(self.gate.still(jnp.asarray(v))) for axis, v in gates.items()}

    @property
    def _budget(self) -> Budget | None:
        return self.budget if self.budget.given else None

    def _retention(self, trained: Params, share: jax.Array) -> dict[str, jax.Array]:
        return {axis: self.gate.retention(jnp.asarray(value), share) for axis, value in trained.items()}

    def _masked(self, inputs: Inputs) -> Inputs:
        assert inputs.key is not None
        trained = branch(inputs.extra, GATES)
        keys = jax.random.split(inputs.key, len(trained))
        drawn = {
            axis: self.gate.gates(jnp.asarray(value), key) for (axis, value), key in zip(sorted(trained.items()), keys)
        }
        return replace(inputs, params=with_mask(inputs.params, drawn))
