"""Parameters in memory, scored on tasks: what a run and its followers do at each checkpoint."""

import gc
import random
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpt.data import contamination
from jaxpt.evaluation.downstream import Downstream
from jaxpt.evaluation.harness import clean, evaluating
from jaxpt.evaluation.harness.laid_out import laid_out
from jaxpt.evaluation.harness.scores import flat_scores
from jaxpt.evaluation.option_names import FLAGS, OptionNames
from jaxpt.models.model import Model


def measure(
    asked: Downstream, model: Model, output: Path, name: str, mesh: Mesh | None = None, said: OptionNames = FLAGS
) -> dict[str, float]:
    """Returns the scores by name and writes the results to `output/name`; answers are kept until it returns.

    Nothing of it stays in memory, and Python's and NumPy's own random numbers, which lm_eval seeds, go on as before.

    Args:
        asked: tasks and how they are asked.
        model: with its tokenizer; parameters on one device or sharded over `mesh`.
        output: the folder of the entry.
        name: of the folder of these results, and what they call the model.
        mesh: None: one device.
        said: how messages name options.

    Raises:
        JaxptError: tasks that cannot be asked, results that cannot be written.
    """
    states = random.getstate(), np.random.get_state()
    try:
        return _measure(asked, model, output, name, mesh, said)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        gc.collect()  # the adapter's cache of encoded texts refers to the adapter, and that to the laid out weights


def _measure(
    asked: Downstream, model: Model, output: Path, name: str, mesh: Mesh | None, said: OptionNames
) -> dict[str, float]:
    alone = jax.process_count() == 1  # several would see different parts of a file that one of them writes
    adapter = laid_out(
        model,
        name,
        output / "answers" if alone else None,
        mesh=mesh,
        dtype=asked.dtype,
        max_length=asked.max_length,
        batch_tokens=asked.batch_tokens,
        slots=asked.slots,
        said=said,
    )
    results = evaluating.evaluate(
        adapter,
        asked.find_tasks(said),
        num_fewshot=asked.num_fewshot,
        limit=asked.limit,
        chat_template=asked.chat_template,
        system_instruction=asked.system,
        seed=asked.seed,
    )
    if asked.contaminated is not None:
        clean.add_clean(results, contamination.read_all(asked.contaminated), said["contaminated"])
    if jax.process_index() == 0:
        evaluating.write(results, output / name)
        if adapter.kept.file is not None:
            adapter.kept.file.unlink(missing_ok=True)
    return flat_scores(results)
