"""Cost of distilling from a cache: `python -m benchmarks.distill_cache [--steps=30 --vocab=32000 …]`.

Writes a cache of a made source with a teacher of the student's shape, reads it as the loader does, and steps a student
by plain cross-entropy and from the cache, in turn, so that whatever else the machine does hits both. Prints tokens/s to
write and to read, distinct ids and bytes per token, and the medians of the steps' seconds, reading and placing in them.
The target is a ratio of at most 1.10.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import jaxpt
from jaxpt.cli.terminal import table
from jaxpt.data.packed import PackedSource, PackedWriter
from jaxpt.data.packing import Document, concat_and_split
from jaxpt.data.source_targets import SourceTargets
from jaxpt.data.target_cache import TargetCache
from jaxpt.data.target_writer import begin, fill
from jaxpt.models import Model
from jaxpt.models.compute import Compute
from jaxpt.models.config import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.specs import param_specs
from jaxpt.objectives.distill import Distill
from jaxpt.objectives.next_token import NextToken
from jaxpt.objectives.objective import Objective, Progress
from jaxpt.objectives.ramp import Ramp
from jaxpt.optim.chain import make_optimizer
from jaxpt.optim.optimizers.adamw import AdamW
from jaxpt.sharding import batch_sharding
from jaxpt.training.arguments import step_arguments
from jaxpt.training.batches import place
from jaxpt.training.config import ShardingConfig
from jaxpt.training.starting_point import open_start
from jaxpt.training.state import Layout, make_layout, new_state
from jaxpt.training.step import StepSpec, make_step
from jaxpt.training.teacher_cache import TargetOptions, TeacherTargets, origin_of


def make_source(path: Path, rows: int, length: int, vocab: int) -> PackedSource:
    """Packs random documents of one row each."""
    rng = np.random.default_rng(0)
    documents = [Document(rng.integers(0, vocab, length), np.ones(length, bool), i) for i in range(rows)]
    with PackedWriter(path, length, vocab) as writer:
        for packed in concat_and_split(documents, length, 0):
            writer.write(packed)
        ids = [i.to_bytes(16, "little") for i in range(rows)]
        return writer.finish(ids, [length] * rows, "m" * 64, {"packer": "concat"})


def made_teacher(student: ModelConfig, deviation: float) -> Model:
    """A model whose logits have this standard deviation, so that it is as uncertain as a trained one.

    Its head is its own: from a tied table, the token that was just read would be nearly certain to come again. The
    last norm gives streams of norm √D.
    """
    config = student.replace(tie_embeddings=False)
    params = init_params(config, 1)
    head = params["head"] * (deviation / np.std(np.asarray(params["head"])) / config.embed**0.5)
    return Model(config, {**params, "head": head})


def write(folder: Path, source: PackedSource, layout: Layout, rows: int) -> tuple[TargetCache, float]:
    """Returns the cache and the seconds that it took, compilation excluded."""
    start = open_start(str(folder / "teacher"), "params", "teacher")
    origin = origin_of(source, start, None, TargetOptions())
    rows_of = TeacherTargets(source, origin, start, layout, rows)
    list(rows_of(0, rows))  # compiles
    began = time.monotonic()
    list(fill(folder / "cache", begin(folder / "cache", origin, 4 * rows, "made"), rows_of))
    return TargetCache.open(folder / "cache"), time.monotonic() - began


def stepper(
    objective: Objective, config: ModelConfig, layout: Layout, rows: int, read: Callable[[int], dict[str, np.ndarray]]
) -> Callable[[int], float]:
    """Returns a function of the step's number that reads its batch, steps, and returns the seconds."""
    optimizer, sharding = make_optimizer(AdamW(), param_specs(config)), batch_sharding(layout.mesh)
    length = read(0)["tokens"].shape[1]
    step = make_step(StepSpec(config, objective, Compute(), rows, length, 1, (), 1), optimizer, layout)
    state = new_state(layout, optimizer, init_params(config, 0, layout.params))

    def one(number: int) -> float:
        nonlocal state
        began = time.monotonic()
        batch = {**read(number), "source_id": np.zeros(rows, np.int32)}
        given = step_arguments(objective, Progress(number, 100, 1), 1e-3, 1e-3, step=number)
        state, metrics = step(state, place(batch, sharding, rows), given)  # type: ignore[arg-type]
        jax.block_until_ready(metrics)
        return time.monotonic() - began

    return one


def main() -> None:
    """Parses the sizes, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"steps": 30, "vocab": 32_000, "embed": 256, "layers": 4, "rows": 4, "length": 256}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--deviation", type=float, default=4.1, help="of the teacher's logits: the higher, the surer")
    args = parser.parse_args()
    config = ModelConfig(
        vocab_size=args.vocab,
        embed=args.embed,
        heads=args.embed // 32,
        kv_heads=args.embed // 32,
        head_dim=32,
        mlp=3 * args.embed,
        layers=uniform_layers(args.layers),
        tie_embeddings=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder, n = Path(name), args.rows
        source = make_source(folder / "source", 8 * n, args.length, args.vocab)
        teacher = made_teacher(config, args.deviation)
        jaxpt.save(teacher, folder / "teacher")
        one_device = ShardingConfig(mesh={"fsdp": 1})
        layout, teachers = (make_layout(c, one_device, jax.devices()[:1]) for c in (config, teacher.config))
        cache, seconds = write(folder, source, teachers, n)
        targets = SourceTargets({"made": cache}, {"made": source})
        ids = lambda step: (np.arange(n) + step * n) % source.rows  # noqa: E731
        plain = lambda step: dict(source.read(ids(step).tolist()))  # noqa: E731

        def taught(step: int) -> dict[str, np.ndarray]:
            batch = plain(step)
            return {**batch, **targets.read(np.zeros(n, int), ids(step), batch["loss_weights"])}  # type: ignore[dict-item]

        began = time.monotonic()
        for step in range(40):
            targets.read(np.zeros(n, int), ids(step), np.zeros((n, args.length), np.float32))
        reading = 40 * n * args.length / (time.monotonic() - began)
        offline = Distill(cache={"made": str(cache.path)}, temperature=Ramp(1.0))
        with jax.set_mesh(layout.mesh):
            kinds = {
                "cross-entropy": stepper(NextToken(), config, layout, n, plain),
                "from a cache": stepper(offline, config, layout, n, taught),
            }
            taken: dict[str, list[float]] = {name: [] for name in kinds}
            for step in range(args.steps + 2):
                for name, one in kinds.items():
                    taken[name].append(one(step))
        medians = {name: statistics.median(values[2:]) for name, values in taken.items()}
        best = {name: min(values[2:]) for name, values in taken.items()}
    u, tokens = cache.ids / cache.positions, source.rows * args.length
    facts = [["write", f"{tokens / seconds:,.0f} tokens/s"], ["read", f"{reading:,.0f} tokens/s"]]
    facts += [["entropy of the teacher", f"{cache.mean_entropy:.2f} nats"]]
    facts += [["distinct ids, at most", f"{u:.1f}, {cache.width}"]]
    facts += [["bytes per token", f"{cache.payload / cache.positions:.1f}"]]
    facts += [[f"step, {name}: median, least", f"{medians[name]:.3f} s, {best[name]:.3f} s"] for name in medians]
    ratios = [values["from a cache"] / values["cross-entropy"] for values in (medians, best)]
    facts += [["ratio of medians, of least", f"{ratios[0]:.3f}, {ratios[1]:.3f}"]]
    print(table([f"{args.rows} × {args.length} tokens, vocabulary {args.vocab:,}", ""], facts))


if __name__ == "__main__":
    main()
