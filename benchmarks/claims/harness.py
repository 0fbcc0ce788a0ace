"""What the claims share: text split and packed once, a teacher trained once, a student's curve of held-out losses."""

import argparse
import json
from typing import Any

import jax
import numpy as np

from jaxpt import tokenizers
from jaxpt.bundles import open_bundle, save_bundle
from jaxpt.cli.terminal import progress
from jaxpt.data import Loader, PackedSource
from jaxpt.data.build import Packing, build
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.errors import JaxptError
from jaxpt.generation.generate import generate
from jaxpt.models import Compute, Model, ModelConfig, init_params, param_specs, uniform_layers
from jaxpt.objectives.next_token import NextToken
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.optim.schedule import learning_rate, resolve
from jaxpt.optim.schedules.cosine import Cosine
from jaxpt.reshape.stream import InMemory, ModelSlices
from jaxpt.reshape.walk import loss
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import StepArguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.state import make_layout, new_state
from jaxpt.training.step import StepSpec, make_step

POINTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the budget, where the loss is taken


def sources(a: argparse.Namespace, parent: Model | None = None) -> tuple[PackedSource, PackedSource, Any]:
    """Tokenizer and packed rows of training and held-out documents, made once; `parent` brings its tokenizer."""
    model, train, held = a.folder / "tokenizer.model", a.folder / "train", a.folder / "held_out"
    if not held.exists():
        documents = [d["text"] for f in list_files(a.text) for d in read_documents(f)] if a.text else samples(parent, a)
        every = max(2, round(1 / a.held_out))
        parts = {"held_out": documents[::every], "train": [d for i, d in enumerate(documents) if i % every]}
        if parent is None and not model.exists():
            tokenizers.train_sentencepiece(iter(parts["train"]), model, a.vocab)
        words = tokenizers.load(model) if parent is None else parent.tokenizer
        for name in ("train", "held_out"):
            file = a.folder / f"{name}.jsonl"
            file.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(parts[name])))
            if not (a.folder / name).exists():
                build(str(file), a.folder / name, words, a.length, Packing(packer="concat"))
    words = tokenizers.load(model) if parent is None else parent.tokenizer
    return PackedSource.open(train), PackedSource.open(held), words


def samples(parent: Model, a: argparse.Namespace) -> list[str]:
    """`a.samples` documents that `parent` draws at temperature 1, each of at most 250 tokens."""
    words, out = parent.tokenizer, []
    with progress(a.samples, "drawing", "sample") as bar:
        for start in range(0, a.samples, 250):
            prompts = [[words.bos_id]] * min(250, a.samples - start)
            made = generate(
                parent.config, parent.params, prompts, 250, seed=start, stop_ids=(words.bos_id, words.eos_id)
            )
            out += [words.decode([t for t in ids if t not in (words.bos_id, words.eos_id)]) for ids in made]
            bar.update(len(made))
    return out


def held_out_batches(source: PackedSource, batch: int, most: int = 8) -> list[Any]:
    """Up to `most` batches of rows that lie evenly over the whole held-out source, so that every document counts."""
    count = min(most, source.rows // batch)
    if not count:
        raise JaxptError(f"{source.path} has {source.rows} rows, a batch needs {batch}; give more text")
    rows = [i * source.rows // (count * batch) for i in range(count * batch)]
    return [source.read(rows[i : i + batch]) for i in range(0, len(rows), batch)]


def train(
    config: ModelConfig, params: Any, batches: Any, steps: int, rate: float, held: list[Any], a: argparse.Namespace
) -> tuple[Any, list[tuple[int, float]]]:
    """Trains `params` on `batches(step)`; returns them with (tokens, held-out loss) at every point of the budget."""
    layout = make_layout(config, ShardingConfig(mesh={"fsdp": 1}), jax.devices()[:1])
    optimizer = make_optimizer(AdamW(), param_specs(config))
    step = make_step(StepSpec(config, NextToken(), Compute(), a.batch, a.length, 1, (), 1), optimizer, layout)
    params = jax.tree.map(jax.device_put, params, layout.params)
    state = new_state(layout, optimizer, params)
    schedule = resolve(Cosine(warmup="5%"), steps, a.batch * a.length)
    measured = {round(p * steps) for p in POINTS}
    curve = [(0, loss(InMemory(config, state.params), held))]
    with progress(steps, "training", "step") as bar, jax.set_mesh(layout.mesh):
        for i in range(steps):
            data = place(batches(i), batch_sharding(layout.mesh), a.batch)
            state, _ = step(state, data, StepArguments(np.float32(learning_rate(schedule, i, rate))))
            bar.update()
            if i + 1 in measured:
                curve.append(((i + 1) * a.batch * a.length, loss(InMemory(config, state.params), held)))
    return jax.tree.map(np.asarray, state.params), curve


def teacher(
    a: argparse.Namespace, loader: Loader, steps: int, held: list[Any], tokenizer: Any, parent: Model | None = None
) -> tuple[ModelSlices, dict]:
    """The teacher (`parent`, or one trained once), and its held-out losses at random initialisation and now."""
    if parent is not None:
        given = InMemory(parent.config, parent.params)
        start = loss(InMemory(parent.config, init_params(parent.config, 0)), held)
        return given, {"start": start, "end": loss(given, held)}
    path = a.folder / "teacher"
    if not path.exists():
        config = ModelConfig(
            tokenizer.vocab_size, a.embed, a.heads, a.kv_heads, a.embed // a.heads, a.mlp, uniform_layers(a.layers),
            tie_embeddings=True, max_positions=a.length,
        )  # fmt: skip
        start = init_params(config, 0)
        params, curve = train(config, start, loader.batch, steps, a.teacher_rate, held, a)
        entry = {"op": "train", "seed": 0, "tokens": steps * a.batch * a.length, "curve": curve}
        save_bundle(Model(config, params, tokenizer, (entry,)), path)
    bundle = open_bundle(path)
    return bundle, {"start": bundle.lineage[-1]["curve"][0][1], "end": loss(bundle, held)}


def at(curve: list[Any], share: float) -> float:
    """The loss measured nearest to a share of the budget."""
    return float(min(curve, key=lambda point: abs(point[0] - share * curve[-1][0]))[1])
