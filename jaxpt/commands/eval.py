"""`jaxpt eval`: downstream tasks for a bundle, run, checkpoint or Hugging Face directory; two of them compared."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.errors import JaxptError

if TYPE_CHECKING:
    from jaxpt.evaluation.harness.language_model import JaxptModel
    from jaxpt.training.state import Layout

HELP = "score a model on downstream tasks (lm_eval), from local files; compare two models"

EPILOG = """\
example:
  jaxpt eval --list
  jaxpt eval --model=BUNDLE --tasks=hellaswag,arc_easy --data=EVALSETS --num_fewshot=0 --limit=100
  jaxpt eval --model=RUN --tasks=hellaswag --data=EVALSETS --limit=100 --dtype=bfloat16 --mesh=fsdp=-1
  jaxpt eval --model=BUNDLE --tasks=my_task.yaml --output=mine
  jaxpt eval --compare=BUNDLE.eval,RUN.eval

Answers are kept in OUTPUT/answers as they come: killed, it goes on when started again, and what was asked before is not
computed again. --data is a folder with the files of evaluation sets; a task of lm_eval itself is read from this
machine's cache, and from the Hugging Face hub only with --hub. docs/evaluation.md says which files, and how to write a
task of one's own.
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments, evaluates, writes results and prints them."""
    parser = Parser("jaxpt eval", HELP, EPILOG)
    parser.add_argument("--model", metavar="PATH", help="bundle, run, checkpoint or Hugging Face directory")
    parser.add_argument("--tasks", metavar="A,B,…", help="names of tasks, or task files (NAME.yaml)")
    parser.add_argument("--data", metavar="DIR", help="folder with the files of evaluation sets")
    parser.add_argument(
        "--num_fewshot", type=int, metavar="N", help="examples before each question; default: the task's"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    parser.add_argument("--output", metavar="DIR", help="where results and answers go; default: MODEL.eval")
    parser.add_argument("--dtype", default="float32", help="compute dtype: float32 or bfloat16")
    parser.add_argument("--mesh", default="", help="over this machine's devices, for instance fsdp=4,tensor=2")
    parser.add_argument(
        "--max_length", type=int, metavar="N", help="tokens read at once; default: the model's positions"
    )
    parser.add_argument("--batch_tokens", type=int, metavar="N", help="tokens judged at once")
    parser.add_argument("--slots", type=int, metavar="N", help="prompts continued at once")
    parser.add_argument("--chat_template", action="store_true", help="write prompts as conversations")
    parser.add_argument("--system", metavar="TEXT", help="what a conversation begins with")
    parser.add_argument("--seed", type=int, default=1234, help="of the choice of examples")
    parser.add_argument("--hub", action="store_true", help="tasks of lm_eval may be downloaded")
    parser.add_argument("--list", action="store_true", help="list the tasks")
    parser.add_argument("--compare", metavar="A,B", help="two folders of results: paired differences")
    args = parser.parse_args(list(argv))
    if args.compare:
        return _compare(args.compare)
    if find_spec("lm_eval") is None:
        raise JaxptError("jaxpt eval needs the library lm_eval: pip install 'jaxpt[eval]'")
    if not args.hub:
        from jaxpt.evaluation.harness.offline import stay_offline

        stay_offline()
    if args.list:
        return _list()
    for name in ("model", "tasks"):
        if not getattr(args, name):
            raise JaxptError(f"--{name} is missing (or --list, or --compare=A,B)")
    for name in ("limit", "max_length", "batch_tokens", "slots"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise JaxptError(f"--{name}={getattr(args, name)} must be at least 1")
    if args.num_fewshot is not None and args.num_fewshot < 0:
        raise JaxptError(f"--num_fewshot={args.num_fewshot} must be at least 0")
    return _evaluate(args)


def _evaluate(args: argparse.Namespace) -> int:
    from jaxpt.evaluation.harness import evaluating

    data = None if args.data is None else Path(args.data)
    tasks = evaluating.find_tasks(args.tasks.split(","), data)  # before the model: a mistyped name costs no loading
    output = Path(args.output or f"{args.model.rstrip('/')}.eval")
    model = open_model(
        args.model,
        output,
        dtype=args.dtype,
        mesh=args.mesh,
        max_length=args.max_length,
        batch_tokens=args.batch_tokens,
        slots=args.slots,
    )
    results = evaluating.evaluate(
        model,
        tasks,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        chat_template=args.chat_template,
        system_instruction=args.system,
        seed=args.seed,
    )
    file = evaluating.write(results, output)
    print(table(["task", "shots", "documents", "metric", "value", "±"], evaluating.rows(results)))
    if model.truncated:
        print(
            f"jaxpt eval: {model.truncated:,} requests were longer than the {model.max_length:,} tokens that the model "
            f"reads; their contexts were cut on the left",
            file=sys.stderr,
        )
    print(f"results in {file}")
    return 0


def open_model(
    path: str,
    output: Path,
    *,
    dtype: str = "float32",
    mesh: str = "",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    slots: int | None = None,
    conversations: str | None = None,
) -> "JaxptModel":
    """Returns a model laid out for evaluations; its answers are kept in `output`.

    Args:
        path: a bundle, run, checkpoint or Hugging Face directory.
        output: the folder of results.
        dtype, mesh, max_length, batch_tokens, slots: as the flags of these names.
        conversations: source of the template that conversations were trained with: prompts written as conversations are
            written by it, and a generation also ends where its turns do.

    Raises:
        JaxptError: nothing there that can be read, or a model without a tokenizer.
    """
    from jaxpt import api
    from jaxpt.bundles.digest import digest
    from jaxpt.evaluation.harness.kept import KeptAnswers
    from jaxpt.evaluation.harness.language_model import JaxptModel
    from jaxpt.generation import InferenceEngine
    from jaxpt.generation.ends import end_ids
    from jaxpt.generation.turns import turn_ends
    from jaxpt.models.compute import Compute

    layout = _layout(path, mesh) if mesh else None
    model = api.load(path, shardings=None if layout is None else layout.params)
    words = model.tokenizer
    if words is None:
        raise JaxptError(f"--model={path} has no tokenizer; write the bundle with one")
    identity = {
        "params": digest(model.params),
        "config": model.config.to_dict(),
        "tokenizer": words.fingerprint,
        "dtype": dtype,
        "max_length": max_length or model.config.max_positions,
    }
    ends = end_ids(model)
    if conversations is not None:
        words.chat_templates["default"] = words.chat_template = conversations
        ends = sorted({*ends, *turn_ends(words, conversations)})
        identity |= {"ends": ends}
    engine = InferenceEngine(
        model.config,
        model.params,
        Compute(dtype=dtype),
        decode=words.decode,
        mesh=None if layout is None else layout.mesh,
        slots=slots,
        batch_tokens=batch_tokens,
    )
    kept = KeptAnswers(output / "answers", identity)
    return JaxptModel(engine, words, ends, max_length=max_length, kept=kept, name=path)


def _layout(path: str, mesh: str) -> "Layout":
    from jaxpt.sharding.mesh import parse_axes
    from jaxpt.training.config import ShardingConfig
    from jaxpt.training.starting_point import open_start
    from jaxpt.training.state import make_layout

    sharding = ShardingConfig(mesh=parse_axes(mesh, "--mesh"))
    return make_layout(open_start(path, "params", "--model").model, sharding)


def _list() -> int:
    from jaxpt.evaluation.harness.local_tasks import read_config, shipped

    lines = []
    for name, file in shipped().items():
        config = read_config(file)
        first = [names if isinstance(names, str) else names[0] for names in config["files"].values()]
        lines.append([name, config.get("about", ""), ", ".join(first)])
    print(table(["task", "what it is", "files in --data (.jsonl, .jsonl.gz, or a folder of CSV)"], lines))
    spec = find_spec("lm_eval.tasks")
    assert spec is not None
    assert spec.origin is not None
    folders = sorted(f.name for f in Path(spec.origin).parent.iterdir() if f.is_dir() and not f.name.startswith("_"))
    print(f"\nand those of lm_eval, by its names, in {len(folders)} folders: {', '.join(folders)}")
    return 0


def _compare(folders: str) -> int:
    from jaxpt.evaluation.harness.comparing import compare, read_scores

    names = folders.split(",")
    if len(names) != 2:
        raise JaxptError(f"--compare={folders} must be two folders of results, A,B")
    a, b = (read_scores(Path(name)) for name in names)
    shared = [task for task in a if task in b]
    if not shared:
        raise JaxptError(f"--compare: {names[0]} has {', '.join(a)}, {names[1]} has {', '.join(b)}: no task in common")
    lines: list[list[object]] = []
    for task in shared:
        for d in compare(a[task], b[task]):
            lines.append([task, *d])
    print(table(["task", "metric", "documents", "A", "B", "B - A", "± (paired)", "p"], lines))
    left_out = sorted(set(a) ^ set(b))
    if left_out:
        print(f"jaxpt eval: in one of the two only: {', '.join(left_out)}", file=sys.stderr)
    return 0
