"""`jaxpt distill-cache`: a teacher's targets for every row of a packed source, to distil from without the teacher."""

import time
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxpt import tokenizers
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress
from jaxpt.data.packed import PackedSource
from jaxpt.data.remote import is_remote
from jaxpt.data.target_cache import TargetCache
from jaxpt.data.target_writer import begin, fill
from jaxpt.data.targets import TargetKind
from jaxpt.errors import JaxptError
from jaxpt.models.size import flops_per_token
from jaxpt.sharding.mesh import parse_axes
from jaxpt.training.config import ShardingConfig
from jaxpt.training.starting_point import open_start
from jaxpt.training.state import make_layout
from jaxpt.training.teacher_cache import TargetOptions, TeacherTargets, origin_of

HELP = "write a teacher's targets for the rows of a packed source, to distil from without the teacher"

EPILOG = """\
example:
  jaxpt distill-cache --teacher=RUN --source=packed/code --to=packed/teacher --rows_per_shard=256
  jaxpt distill-cache --teacher=RUN --source=packed/code --to=packed/likeliest --top_k=16
  jaxpt train --config=configs/tiny.py:packed/code --workdir=runs/from_cache \\
      --config.stages[0].objective.name=distill --config.stages[0].objective.cache.text=packed/teacher \\
      --config.stages[0].objective.temperature.start=1 --config.stages[0].objective.temperature.end=None

Killed, it goes on at the next shard when started again. Started several times, on machines that see the same folder,
the processes share the shards. Of each position 50 draws from the teacher's distribution are kept, whose mean is that
distribution; --top_k=K keeps its K likeliest tokens and their probabilities instead, all others as one event.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, checks teacher and source, and writes the cache to its end."""
    parser = Parser("jaxpt distill-cache", HELP, EPILOG)
    parser.add_argument(
        "--teacher", required=True, metavar="PATH", help="a bundle, run, checkpoint or Hugging Face model"
    )
    parser.add_argument("--source", required=True, metavar="PACKED", help="a packed source")
    parser.add_argument("--to", metavar="DIR", help="the cache, new or to go on with; default: PACKED.targets")
    parser.add_argument("--draws", type=int, default=50, help="draws of each position, at most 63")
    parser.add_argument("--top_k", type=int, metavar="K", help="keep the K likeliest tokens instead of draws")
    parser.add_argument("--temperature", type=float, default=1.0, help="the teacher's, and the one to distil at")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--batch_size", type=int, default=8, help="rows at a time")
    parser.add_argument("--rows_per_shard", type=int, default=1024, help="rows of a file: what a kill may lose")
    parser.add_argument("--mesh", default="fsdp=-1", help="over this machine's devices, for instance fsdp=4,tensor=2")
    args = parser.parse_args(list(argv))
    if args.rows_per_shard < 1:
        raise JaxptError(f"--rows_per_shard={args.rows_per_shard} must be at least 1")
    if args.to is None and is_remote(args.source):
        raise JaxptError(f"--source={args.source} is on another machine; say with --to where the cache goes")
    path = Path(args.to or f"{args.source.rstrip('/')}.targets")
    options = TargetOptions(args.draws, args.top_k, args.temperature, args.seed)
    source, teacher = PackedSource.open(args.source), open_start(args.teacher, "params", "--teacher")
    words = None if teacher.tokenizer_path is None else tokenizers.load(teacher.tokenizer_path).fingerprint
    origin = origin_of(source, teacher, words, options)
    layout = make_layout(teacher.model, ShardingConfig(mesh=parse_axes(args.mesh, "--mesh")), jax.local_devices())
    begun = begin(path, origin, args.rows_per_shard, teacher.description)
    began, done = time.monotonic(), 0
    with progress(source.rows * source.sequence_length, "distill-cache", "tok", scale=True) as bar:
        rows_of = TeacherTargets(source, origin, teacher, layout, args.batch_size, bar.update)
        for _, facts in fill(path, begun, rows_of):
            done += facts["records"] * source.sequence_length
            bar.set_postfix(ids=f"{facts['ids'] / max(1, facts['positions']):.1f}")
    seconds = time.monotonic() - began
    flops = done * flops_per_token(teacher.model, source.sequence_length, backward=False)
    speed = f"{done / seconds:,.0f} tokens/s, {flops:.3g} FLOPs"
    print(f"{path}: {done:,} positions written here in {seconds:.1f} s, {speed}")
    print(summary(TargetCache.open(path)))
    return 0


def summary(cache: TargetCache) -> str:
    """Returns in a line what a cache keeps of a position, and how many bytes that takes."""
    kind: TargetKind = cache.kind
    kept = f"{kind.ids} draws" if kind.kind == "sampled" else f"the {kind.ids} likeliest ids"
    n = max(1, cache.positions)
    return (
        f"{cache.positions:,} positions with targets: {kept}, {cache.ids / n:.1f} distinct ids on average, at most "
        f"{cache.width}; {cache.payload / n:.1f} bytes per token, {cache.bytes / 2**20:,.1f} MiB in all; the teacher's "
        f"entropy is {cache.mean_entropy:.2f} nats"
    )
