"""Parameters in memory, scored on tasks: what a run and its followers do at each checkpoint."""

import gc
import random
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpt.bundles.digest import digest
from jaxpt.evaluation.downstream import Downstream
from jaxpt.evaluation.harness import evaluating
from jaxpt.evaluation.harness.kept import KeptAnswers
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.evaluation.harness.scores import flat_scores
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids
from jaxpt.models.compute import Compute
from jaxpt.models.model import Model


def measure(asked: Downstream, model: Model, output: Path, name: str, mesh: Mesh | None = None) -> dict[str, float]:
    """Returns the scores by name and writes the results to `output/name`; answers are kept until it returns.

    Nothing of it stays in memory, and Python's and NumPy's own random numbers, which lm_eval seeds, go on as before.

    Args:
        asked: tasks and how they are asked.
        model: with its tokenizer; parameters on one device or sharded over `mesh`.
        output: the folder of the entry.
        name: of the folder of these results, and what they call the model.
        mesh: None: one device.

    Raises:
        JaxptError: tasks that cannot be asked, results that cannot be written.
    """
    states = random.getstate(), np.random.get_state()
    try:
        return _measure(asked, model, output, name, mesh)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        gc.collect()  # the adapter's cache of encoded texts refers to the adapter, and that to the laid out weights


def _measure(asked: Downstream, model: Model, output: Path, name: str, mesh: Mesh | None) -> dict[str, float]:
    assert model.tokenizer is not None, "checked before"
    identity = {
        "params": digest(model.params),
        "config": model.config.to_dict(),
        "tokenizer": model.tokenizer.fingerprint,
        "dtype": asked.dtype,
        "max_length": asked.max_length or model.config.max_positions,
    }
    alone = jax.process_count() == 1  # several would see different parts of a file that one of them writes
    kept = KeptAnswers(output / "answers" if alone else None, identity)
    engine = InferenceEngine(
        model.config,
        model.params,
        Compute(dtype=asked.dtype),
        decode=model.tokenizer.decode,
        mesh=mesh,
        slots=asked.slots,
        batch_tokens=asked.batch_tokens,
    )
    adapter = JaxptModel(engine, model.tokenizer, end_ids(model), max_length=asked.max_length, kept=kept, name=name)
    results = evaluating.evaluate(
        adapter,
        asked.find_tasks(),
        num_fewshot=asked.num_fewshot,
        limit=asked.limit,
        chat_template=asked.chat_template,
        system_instruction=asked.system,
        seed=asked.seed,
    )
    if jax.process_index() == 0:
        evaluating.write(results, output / name)
        if kept.file is not None:
            kept.file.unlink(missing_ok=True)
    return flat_scores(results)
