"""An evaluation: how often the next token is among the likeliest.

    PYTHONPATH=docs/examples jaxpt train --config=… --workdir=… …

with `"evaluations": {"top5": {"name": "accuracy:Accuracy", "documents": "held_out.jsonl", "top": 5}}` in the config.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxpt.config.choice import option
from jaxpt.errors import JaxptError
from jaxpt.evaluation.evaluation import Evaluation, EvaluationSetting, Measure
from jaxpt.evaluation.held_out import held_out, read_texts
from jaxpt.models.forward import forward


@dataclass(frozen=True)
class Accuracy(Evaluation):
    """Share of held-out tokens among the `top` likeliest; when it is measured is an option of `Evaluation`."""

    documents: str = option("", "JSONL file of held-out documents")
    top: int = option(1, "how many of the likeliest tokens count")
    batch_size: int = option(8, "rows measured at once")

    def check(self, where: str) -> None:
        """Raises a JaxptError for an option that cannot be."""
        super().check(where)
        if not self.documents or self.top < 1:
            raise JaxptError(f"{where} needs documents, and top of at least 1")

    def prepare(self, setting: EvaluationSetting) -> Measure:
        """Returns what a run calls with its parameters; logged as `eval/ENTRY/accuracy`."""
        assert setting.tokenizer is not None
        texts = read_texts(self.documents, None)
        held = held_out(texts, setting.tokenizer, setting.sequence_length, self.batch_size, self.documents)

        @jax.jit
        def hits(params, b):
            logits = forward(setting.model, params, b["tokens"], b["segment_ids"], b["positions"], setting.compute)
            _, likeliest = jax.lax.top_k(logits, self.top)
            return jnp.sum(b["loss_weights"] * jnp.any(likeliest == b["targets"][..., None], axis=-1))

        def measure(step, params):
            batches = [
                {key: array[i] for key, array in held.batches.items()} for i in range(len(held.batches["tokens"]))
            ]
            total = sum(float(hits(params, batch)) for batch in batches)
            return {"accuracy": total / float(held.batches["loss_weights"].sum())}

        return measure
