"""A short fine-tune on top of each of several models: which models, and a config that fits each of them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxpt.checkpoints.checkpoints import finished_steps, read_run
from jaxpt.data.weights import flat_weights
from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig
from jaxpt.sweeps.results import LOSS, measure
from jaxpt.tokenizers import Tokenizer
from jaxpt.training.config import RunConfig, SourceConfig
from jaxpt.training.metrics import read
from jaxpt.training.starting_point import open_start

CHATML = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class ProbedModel:
    """A model to be probed: `name` is that of its folder, `digest` that of its parameters.

    `step`, `tokens` and `loss` (nats per token, the mean over the last tenth of the tokens so far) are those of the
    checkpoint's run; None where they are not known.
    """

    name: str
    path: str
    digest: str
    step: int | None = None
    tokens: int | None = None
    loss: float | None = None


def models_of_run(run: Path) -> list[ProbedModel]:
    """Returns the kept checkpoints of a run, the oldest first.

    Raises:
        JaxptError: it has none.
    """
    steps = finished_steps(run)
    if not steps:
        raise JaxptError(f"--run={run} has no finished checkpoint; give a run directory, or --model=PATH")
    return [_checkpoint(run, step, str(step)) for step in steps]


def models_named(paths: Sequence[str]) -> list[ProbedModel]:
    """Returns the models at `paths`: bundles, runs (their newest checkpoint), checkpoints, Hugging Face directories.

    Raises:
        JaxptError: nothing that can be read, or the same one twice.
    """
    out: list[ProbedModel] = []
    for path in paths:
        here, name = Path(path), re.sub(r"[^\w.-]+", "_", path).strip("_.") or "model"
        if any(one.name == name for one in out):
            raise JaxptError(f"--model names {path} twice")
        if here.parent.name == "checkpoints" and here.name.isdigit():
            out.append(_checkpoint(here.parents[1], int(here.name), name))
        elif steps := finished_steps(here):
            out.append(_checkpoint(here, steps[-1], name))
        else:
            out.append(ProbedModel(name, path, open_start(path, "params", "--model").digest))
    return out


def _checkpoint(run: Path, step: int, name: str) -> ProbedModel:
    path = str(run / "checkpoints" / str(step))
    start, tokens = open_start(path, "params", "--model"), int(read_run(run, step)["tokens"])
    file = run / "metrics.jsonl"
    records = [r for r in read(file) if "tokens" in r and r["step"] <= step] if file.is_file() else []
    return ProbedModel(name, path, start.digest, step, tokens, measure(records, LOSS, tokens))


def chat_template_for(tokenizer: Tokenizer) -> str | None:
    """Returns the name of the template that a tokenizer needs for conversations; None where it has its own.

    `chatml` where its vocabulary has that template's control tokens. Else `plain`, which ends a turn with EOS: a
    generation then ends where a turn does, and no turn costs a dozen tokens that spell a mark.
    """
    if tokenizer.chat_templates:
        return None
    known = {text for _, text, _ in tokenizer.special_tokens()}
    return "chatml" if known >= set(CHATML) else "plain"


def fitted(config: RunConfig, model: ModelConfig, tokenizer: Tokenizer) -> tuple[RunConfig, list[str]]:
    """Returns a config for a fine-tune of `model`, and in a line each what became different.

    Rows are no longer than the model's positions, and conversations are written by a template of jaxpt's where neither
    config nor tokenizer has one.
    """
    said: list[str] = []
    longest = max(stage.sequence_length for stage in config.stages)
    if longest > model.max_positions:
        said.append(f"rows of {model.max_positions:,} tokens instead of {longest:,}: the model reads no more")
        stages = [
            dataclasses.replace(stage, sequence_length=min(stage.sequence_length, model.max_positions))
            for stage in config.stages
        ]
        config = dataclasses.replace(config, stages=tuple(stages))
    template = chat_template_for(tokenizer)
    bare = [name for name, source in config.sources.items() if _needs_template(source)]
    if template is not None and bare:
        said.append(f"{', '.join(bare)}: written by the template {template}, as the tokenizer has none")
        sources = {
            name: dataclasses.replace(source, pack=dataclasses.replace(source.pack, template=template))
            if name in bare
            else source
            for name, source in config.sources.items()
        }
        config = dataclasses.replace(config, sources=sources)
    return config, said


def _needs_template(source: SourceConfig) -> bool:
    return source.pack.kind == "chat" and source.pack.template is None


def shortened(config: RunConfig, rows: Mapping[str, int]) -> tuple[RunConfig, list[str]]:
    """Returns a config of one stage that takes no more rows than there are, and what became different.

    Args:
        config: with several stages it stays as it is; the plan then says what is missing.
        rows: of each source, without `repeat`.

    Raises:
        JaxptError: there are too few for a single step.
    """
    if len(config.stages) > 1:
        return config, []
    (stage,) = config.stages
    weights = flat_weights(stage.mixture, rows)
    total = sum(weights.values())
    steps = stage.steps
    for name, weight in weights.items():
        there = rows[name] * config.sources[name].repeat
        if weight > 0 and steps * stage.batch_size * weight / total > there:
            steps = int(there * total / (weight * stage.batch_size))
    if steps == stage.steps:
        return config, []
    if steps < 1:
        raise JaxptError(
            f"the conversations give {sum(rows.values()):,} rows of {stage.sequence_length:,} tokens, too few for a "
            f"batch of {stage.batch_size}; set --config.stages[0].batch_size, or a larger "
            f"--config.sources.{next(iter(rows))}.repeat"
        )
    said = f"{steps:,} steps instead of {stage.steps:,}: the conversations give no more rows"
    return dataclasses.replace(config, stages=(dataclasses.replace(stage, duration=f"{steps} steps"),)), [said]
