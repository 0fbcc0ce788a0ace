"""Distillation: the student learns the next-token distribution of a frozen teacher beside the text itself.

L = (1 - α) · nll + α · T² · D(p_T, q_T), p_T and q_T the softmax of the teacher's and the student's logits over T, all
in float32 (Hinton et al. 2015, arXiv 1503.02531): T² keeps the gradient's scale, and never multiplies the
cross-entropy. Sums run over chunks of tokens for both models together, so that no tensor [B, S, V] exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.kernels.cross_entropy import from_logits
from jaxpt.kernels.divergence import DIVERGENCES
from jaxpt.kernels.token_chunks import Leaves, Tokens, TokenSum, chunk_length, summed
from jaxpt.models.config import ModelConfig
from jaxpt.models.forward import head_of, hidden_and_taps, unembed
from jaxpt.objectives import from_cache
from jaxpt.objectives.hidden_states import HiddenStates
from jaxpt.objectives.next_token import NextToken, unembedding, weighted
from jaxpt.objectives.objective import ANCESTOR, CachedTargets, FrozenFacts, Inputs, Objective, Scheduled, Terms
from jaxpt.objectives.ramp import Ramp


@dataclass(frozen=True)
class Distill(HiddenStates, NextToken):
    """Next-token loss mixed with the divergence from a teacher, both schedules high at first and low at the end.

    A constant `alpha` of 0 is the next-token objective, bit for bit, and opens no teacher. Where the vocabularies have
    another number of (unused) entries, only those that both have enter the divergence. Hidden states may be pulled to
    the teacher's besides (`HiddenStates`).
    """

    teacher: str | None = option(
        None, "a bundle, a checkpoint or a Hugging Face directory; None: the model that this one was reshaped from"
    )
    alpha: Ramp = option(Ramp(0.9, 0.5), "share of the divergence in the loss, the rest is cross-entropy")
    temperature: Ramp = option(Ramp(2.0, 1.0), "of both distributions in the divergence")
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = option("forward_kl", "of student from teacher")
    cache: dict[str, str] = option({}, "offline: by source, the directory that jaxpt distill-cache wrote for its rows")

    def __post_init__(self) -> None:
        for value in self.alpha.values:
            if not 0 <= value <= 1:
                raise JaxptError(f"alpha is {self.alpha}, it must lie between 0 and 1")
        for value in self.temperature.values:
            if not value > 0:
                raise JaxptError(f"temperature is {self.temperature}, it must be above 0")
        self.check_hidden()
        if self.cache:
            from_cache.refuse(self)

    @property
    def distils(self) -> bool:
        """Whether the teacher ever counts."""
        return self.alpha.values != (0.0, 0.0) or self.pulls

    def frozen(self) -> Mapping[str, str]:
        """Returns the teacher."""
        return {"teacher": self.teacher or ANCESTOR} if self.distils and not self.cache else {}

    def scheduled(self) -> Mapping[str, Scheduled]:
        """Returns α and, with a teacher at hand, the temperature and the weight of hidden states."""
        mixed: dict[str, Scheduled] = {"alpha": self.alpha}
        if not self.cache:
            mixed |= {"temperature": self.temperature, **self.hidden_scheduled()}
        return mixed if self.distils else {}

    def cached_targets(self) -> CachedTargets | None:
        """Returns the caches; none of them is opened where α is 0."""
        caches = CachedTargets(self.cache, self.temperature.values[0], self.teacher)
        return caches if self.distils and self.cache else None

    def beside(self, model: ModelConfig, frozen: Mapping[str, FrozenFacts], where: str) -> "Distill":
        """Returns the objective with the pairs of layers and the teacher's width."""
        return self.with_teacher(model, frozen["teacher"], where) if self.frozen() else self

    def without_frozen(self) -> tuple[Objective, str] | None:
        """Returns next-token training, and the offline way."""
        if not self.frozen():
            return None
        way_out = "write its targets once with `jaxpt distill-cache`, where it has room, and train from them"
        return replace(self, alpha=Ramp(0.0), hidden=Ramp(0.0)), way_out

    def flops_per_token(self, model: ModelConfig, frozen: Mapping[str, ModelConfig], sequence_length: int) -> float:
        """Returns those of the student's step, the teacher's forward pass and the projection of hidden states."""
        pairs = self.taps()[0] if frozen else ()
        projection = 6 * model.embed * (self.hidden_width or 0) * len(pairs)
        return super().flops_per_token(model, frozen, sequence_length) + projection

    def describe(self) -> list[str]:
        """Returns what a plan shows of it."""
        if not self.distils:
            return ["no teacher, as alpha is 0"]
        how = f"{self.divergence} at temperature {self.temperature}, alpha {self.alpha}"
        if self.cache:
            return [f"{how}, from the caches of {', '.join(self.cache)}"]
        pairs = ", ".join(f"{s} to {t}" for s, t in zip(*self.taps()))
        return [how, *([f"hidden states at weight {self.hidden}: layers {pairs}"] if pairs else [])]

    def terms(self, inputs: Inputs) -> Terms:
        """Returns the share of the loss; named `loss` (nll alone), `divergence` (nats, at the temperature),
        `agreement` (share of positions where both models find the same token likeliest) and `hidden_loss`."""
        if not self.distils:
            return super().terms(inputs)
        if self.cache:
            return from_cache.terms(self, inputs)
        b, teacher = inputs.batch, inputs.frozen["teacher"]
        assert b is not None
        batch = b["tokens"], b["segment_ids"], b["positions"]
        taps, plain = self.taps(), inputs.compute.unquantised
        x, routing, own = hidden_and_taps(inputs.model, inputs.params, *batch, inputs.compute, taps[0])
        last, _, theirs = hidden_and_taps(teacher.config, teacher.params, *batch, plain, taps[1])
        terms = self.from_streams(inputs, x, jax.lax.stop_gradient(last))
        terms = self.with_hidden(terms, inputs, own, theirs) if self.pulls else terms
        return terms if routing is None else self.with_balance(terms, routing, inputs.totals)

    def from_streams(self, inputs: Inputs, x: jax.Array, teachers: jax.Array) -> Terms:
        """Returns the terms of both last streams, `x [B, S, D]` and the teacher's `[B, S, D']`."""
        head, rest, _ = unembedding(inputs)
        teacher = inputs.frozen["teacher"]
        fixed = {"student": rest, "teacher": head_of(teacher.config, teacher.params), **inputs.scheduled}
        tokens = {**weighted(inputs), "teacher": teachers}
        vocabularies = inputs.model.vocab_size + teacher.config.vocab_size
        chunk = self.chunk or chunk_length(inputs.rows_per_device, x.shape[1], vocabularies, x.shape[2])
        loss, (nll, lse, divergence, agrees) = summed(self._term(inputs), head, fixed, x, tokens, chunk)
        terms = self.of_tokens(inputs, loss, nll, lse)
        mean = lambda of_token: jnp.sum(tokens["weights"] * of_token)  # noqa: E731
        return terms._replace(named={**terms.named, "divergence": mean(divergence), "agreement": mean(agrees)})

    def _term(self, inputs: Inputs) -> TokenSum:
        """The sum over a chunk's tokens; its facts are nll, log-sum-exp, divergence and agreement, each `[B, C]`."""
        config, teacher, compute = inputs.model, inputs.frozen["teacher"].config, inputs.compute
        common = min(config.vocab_size, teacher.vocab_size)
        divergence_of, z_loss = DIVERGENCES[self.divergence], self.z_loss

        def term(
            head: Leaves, fixed: Mapping[str, Any], x: jax.Array, tokens: Tokens
        ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            logits = unembed(config, {**fixed["student"], **head}, x, compute)
            targets = jax.lax.stop_gradient(unembed(teacher, fixed["teacher"], tokens["teacher"], compute))
            nll, lse = from_logits(logits, tokens["targets"])
            own, theirs = logits[..., :common], targets[..., :common]
            t, alpha = fixed["temperature"], fixed["alpha"]
            divergence = divergence_of(theirs / t, own / t)
            of_token = (1 - alpha) * nll + alpha * t**2 * divergence + z_loss * jnp.square(lse)
            agrees = jnp.argmax(own, axis=-1) == jnp.argmax(theirs, axis=-1)
            return jnp.sum(tokens["weights"] * of_token), (nll, lse, divergence, agrees.astype(jnp.float32))

        return term
