"""`jaxpt eval`: downstream tasks for a bundle, run, checkpoint or Hugging Face directory; two of them compared."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.data import contamination
from jaxpt.errors import JaxptError
from jaxpt.evaluation.option_names import FLAGS, FOLLOWER_FLAGS, key_names

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxpt.evaluation.harness.language_model import JaxptModel
    from jaxpt.models.model import Model

HELP = "score a model on downstream tasks (lm_eval), from local files; compare two models"

EPILOG = """\
example:
  jaxpt eval --list
  jaxpt eval --model=BUNDLE --tasks=hellaswag,arc_easy --data=EVALSETS --num_fewshot=0 --limit=100
  jaxpt eval --model=RUN --tasks=hellaswag --data=EVALSETS --limit=100 --dtype=bfloat16 --mesh=fsdp=-1
  jaxpt eval --model=BUNDLE --tasks=my_task.yaml --output=mine
  jaxpt eval --model=BUNDLE --tasks=hellaswag,arc_easy --data=EVALSETS --contaminated=SEARCHED
  jaxpt eval --contaminated=SEARCHED --output=RUN.eval
  jaxpt eval --compare=BUNDLE.eval,RUN.eval
  jaxpt eval --follow=RUN --tasks=hellaswag --data=EVALSETS --limit=100 --keep_best=hellaswag/acc_norm --once

With --contaminated the score over documents that no training source holds stands beside that over all, also with
--compare and --follow; without these and --model the newest results in OUTPUT get it.

Answers are kept in OUTPUT/answers as they come: killed, it goes on when started again, and what was asked before is not
computed again. --data is a folder with the files of evaluation sets; a task of lm_eval itself is read from this
machine's cache, and from the Hugging Face hub only with --hub. docs/evaluation.md says which files, and how to write a
task of one's own.

--follow scores each checkpoint of a run once, while the run trains or later, until the run is finished (--once: those
that are there). Killed, it goes on when started again. With --keep_best the run keeps the best checkpoint of each stage
by that score, RUN@best by name.
"""


FOLLOWERS = {"entry", "keep_best", "backlog", "once"}
ASKED = {"data", "num_fewshot", "limit", "dtype", "max_length", "batch_tokens", "slots", "chat_template", "system"}
ASKED |= {"seed", "contaminated", "keep_best", "backlog"}
WHOLE = {  # what the whole command is, and the flags that go with it
    "list": set(),
    "compare": {"contaminated"},
    "follow": {"tasks", "mesh", "hub", *ASKED, *FOLLOWERS},
}


def main(argv: Sequence[str]) -> int:
    """Parses arguments, evaluates, writes results and prints them."""
    parser = _parser()
    args = parser.parse_args(list(argv))
    _check_together(args, {name for name, value in vars(args).items() if value != parser.get_default(name)})
    if args.compare and not args.contaminated:
        return _compare(args)
    if find_spec("lm_eval") is None:
        raise JaxptError("jaxpt eval needs the library lm_eval: pip install 'jaxpt[eval]'")
    if not args.hub:
        from jaxpt.evaluation.harness.offline import stay_offline

        stay_offline()
    if args.list:
        return _list()
    if args.compare:
        return _compare(args)
    if args.follow:
        return _follow(args)
    if args.contaminated and not args.model and not args.tasks:
        return _score_again(args)
    for name in ("model", "tasks"):
        if not getattr(args, name):
            raise JaxptError(f"--{name} is missing (or --list, --compare=A,B, --follow=RUN)")
    FLAGS.check_counts(args)
    if args.fewshot_as_multiturn and not args.chat_template:
        raise JaxptError("--fewshot_as_multiturn makes turns of a conversation; add --chat_template")
    return _on_hosts(args)


def _check_together(args: argparse.Namespace, given: set[str]) -> None:
    """Raises for a flag that would change nothing."""
    whole = next((name for name in WHOLE if getattr(args, name)), None)
    for name in sorted(given - {"debug", whole}):
        if whole is not None and name not in WHOLE[whole]:
            raise JaxptError(f"--{name} does not go with --{whole}; leave one of the two out")
        if whole != "follow" and name in FOLLOWERS:
            raise JaxptError(f"--{name} goes with --follow=RUN alone; add that, or leave --{name} out")
        if whole == "follow" and not args.tasks and name in ASKED:
            raise JaxptError(
                f"--{name} goes with --tasks; without, an entry of the run's config says all (config.evaluations)"
            )


def _parser() -> Parser:
    parser = Parser("jaxpt eval", HELP, EPILOG)
    parser.add_argument("--model", metavar="PATH", help="bundle, run, checkpoint or Hugging Face directory")
    parser.add_argument("--follow", metavar="RUN", help="score every checkpoint of a run, also while it trains")
    parser.add_argument("--entry", metavar="NAME", help="what --follow calls its scores: eval/NAME/…; default: tasks")
    parser.add_argument(
        "--keep_best", metavar="TASK/METRIC", help="with --follow: the run keeps the best by this score"
    )
    parser.add_argument(
        "--backlog", type=int, default=20, metavar="N", help="so many checkpoints may wait for --keep_best (20)"
    )
    parser.add_argument("--once", action="store_true", help="with --follow: end when all that are there are scored")
    parser.add_argument("--tasks", metavar="A,B,…", help="names of tasks, or task files (NAME.yaml)")
    parser.add_argument("--data", metavar="DIR", help="folder with the files of evaluation sets")
    parser.add_argument(
        "--num_fewshot", type=int, metavar="N", help="examples before each question; default: the task's"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    parser.add_argument("--output", metavar="DIR", help="where results and answers go; default: MODEL.eval")
    parser.add_argument("--dtype", default="float32", help="compute dtype: float32 or bfloat16")
    parser.add_argument("--mesh", default="", help="over all devices, for instance fsdp=4,tensor=2")
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="several hosts: address of process 0, or auto (TPU pod, SLURM, …)"
    )
    parser.add_argument("--processes", type=int, help="several hosts: how many")
    parser.add_argument("--process_id", type=int, help="several hosts: which one this is")
    parser.add_argument(
        "--max_length", type=int, metavar="N", help="tokens read at once; default: the model's positions"
    )
    parser.add_argument("--batch_tokens", type=int, metavar="N", help="tokens judged at once")
    parser.add_argument("--slots", type=int, metavar="N", help="prompts continued at once")
    parser.add_argument("--chat_template", action="store_true", help="write prompts as conversations")
    parser.add_argument("--fewshot_as_multiturn", action="store_true", help="each example a turn of a conversation")
    parser.add_argument("--system", metavar="TEXT", help="what a conversation begins with")
    parser.add_argument("--seed", type=int, default=1234, help="of the choice of examples")
    parser.add_argument(
        "--run_model_code", action="store_true", help="programs that the model writes may run here; this is no sandbox"
    )
    parser.add_argument("--hub", action="store_true", help="tasks of lm_eval may be downloaded")
    parser.add_argument(
        "--contaminated",
        metavar="A,B,…",
        help="contaminated.json files of decontamination: scores without what sources hold",
    )
    parser.add_argument("--list", action="store_true", help="list the tasks")
    parser.add_argument("--compare", metavar="A,B", help="two folders of results: paired differences")
    return parser


def _on_hosts(args: argparse.Namespace) -> int:
    """Evaluates, as one of several processes where there is a coordinator."""
    from jaxpt.sharding import check_join, join
    from jaxpt.sharding.supervisor import supervised
    from jaxpt.sharding.watch import Watch
    from jaxpt.training.config import ShardingConfig

    check_join(args.coordinator, args.processes, args.process_id)
    if args.coordinator is None:
        return _evaluate(args)
    limit = ShardingConfig().lost_after

    def work(watch: Watch) -> int:
        join(args.coordinator, args.processes, args.process_id, silence=2 * limit + 60)
        watch.begin()
        return _evaluate(args)

    return supervised(work, limit, "jaxpt eval", lambda: "start all processes again; answers are kept")


def _follow(args: argparse.Namespace) -> int:
    from jaxpt.evaluation.downstream import Downstream
    from jaxpt.files.names import path_component
    from jaxpt.models.compute import Compute
    from jaxpt.sharding.mesh import parse_axes
    from jaxpt.training.following import Follower, waiting_entry

    run, mesh = Path(args.follow), parse_axes(args.mesh, "--mesh") if args.mesh else {}
    if not args.tasks:
        entry, asked = waiting_entry(run, args.entry)
        return Follower(run, entry, asked, mesh, said=key_names(f"config.evaluations.{entry}")).follow(args.once)
    asked = Downstream(
        tasks=tuple(args.tasks.split(",")),
        data=args.data,
        num_fewshot=args.num_fewshot,
        limit=args.limit,
        dtype=args.dtype,
        max_length=args.max_length,
        batch_tokens=args.batch_tokens,
        slots=args.slots,
        chat_template=args.chat_template,
        system=args.system,
        seed=args.seed,
        contaminated=args.contaminated,
        keep_best=args.keep_best,
        process="follower",
        backlog=args.backlog,
    )
    entry = args.entry or "tasks"
    path_component(entry, "--entry")
    FOLLOWER_FLAGS.check_counts(asked)
    Compute(dtype=asked.dtype)
    return Follower(run, entry, asked, mesh).follow(args.once)


def _evaluate(args: argparse.Namespace) -> int:
    import jax

    from jaxpt.evaluation.harness import clean, evaluating
    from jaxpt.sharding import on_first_process

    data = None if args.data is None else Path(args.data)
    tasks = evaluating.find_tasks(args.tasks.split(","), data)  # before the model: a mistyped name costs no loading
    files = contamination.read_all(args.contaminated) if args.contaminated else []
    if files:
        clean.check(tasks, files)
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
        fewshot_as_multiturn=args.fewshot_as_multiturn,
        seed=args.seed,
        run_model_code=args.run_model_code,
        judges=jax.process_index() == 0,
    )

    def report() -> None:
        lines = clean.add_clean(results, files) if files else []
        file = evaluating.write(results, output)
        print(table(["task", "shots", "documents", "metric", "value", "±"], evaluating.rows(results)))
        if model.truncated:
            print(
                f"jaxpt eval: {model.truncated:,} requests were longer than the {model.max_length:,} tokens that the "
                f"model reads; their contexts were cut on the left",
                file=sys.stderr,
            )
        if files:
            _report_clean(clean.tables(results), lines)
        print(f"results in {file}")

    on_first_process(report)
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
    import jax

    from jaxpt.evaluation.harness.laid_out import laid_out
    from jaxpt.generation.turns import turn_ends
    from jaxpt.sharding import of_first

    model, over = _loaded(path, mesh)
    words = model.tokenizer
    if words is None:
        raise JaxptError(f"--model={path} has no tokenizer; write the bundle with one")
    if conversations is not None:  # prompts are written by this template from here on
        words.chat_templates["default"] = words.chat_template = conversations
    return laid_out(
        model,
        path,
        output / "answers" if jax.process_index() == 0 else None,
        mesh=over,
        dtype=dtype,
        max_length=max_length,
        batch_tokens=batch_tokens,
        slots=slots,
        turn_ends=None if conversations is None else turn_ends(words, conversations),
        agree=of_first,
    )


def _loaded(path: str, mesh: str) -> "tuple[Model, Mesh | None]":
    """The model, and the mesh that it lies on; None: one device."""
    import jax

    from jaxpt import api
    from jaxpt.sharding.mesh import parse_axes
    from jaxpt.training.config import ShardingConfig
    from jaxpt.training.starting_point import open_start
    from jaxpt.training.state import make_layout

    if not mesh and jax.process_count() == 1:
        return api.load(path), None
    sharding = ShardingConfig(mesh=parse_axes(mesh or "fsdp=-1", "--mesh"))
    layout = make_layout(open_start(path, "params", "--model").model, sharding)
    return api.load(path, shardings=layout.params), layout.mesh


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


def _compare(args: argparse.Namespace) -> int:
    from jaxpt.evaluation.harness.comparing import among, compare, read_samples, scores_of_documents

    names = args.compare.split(",")
    if len(names) != 2:
        raise JaxptError(f"--compare={args.compare} must be two folders of results, A,B")
    a, b = (read_samples(Path(name)) for name in names)
    shared = [task for task in a if task in b]
    if not shared:
        raise JaxptError(f"--compare: {names[0]} has {', '.join(a)}, {names[1]} has {', '.join(b)}: no task in common")
    clean = _clean_documents(args, Path(names[0]), shared)
    lines: list[list[object]] = []
    for task in shared:
        pair = [scores_of_documents(samples[task]) for samples in (a, b)]
        differences = compare(*pair)
        if task in clean:
            differences += compare(*(among(scores, clean[task], "clean") for scores in pair))
        lines += [[task, *d] for d in differences]
    print(table(["task", "metric", "documents", "A", "B", "B - A", "± (paired)", "p"], lines))
    left_out = sorted(set(a) ^ set(b))
    if left_out:
        print(f"jaxpt eval: in one of the two only: {', '.join(left_out)}", file=sys.stderr)
    return 0


def _clean_documents(args: argparse.Namespace, folder: Path, tasks: Sequence[str]) -> dict[str, set[str]]:
    """The clean documents of tasks, if that is asked for; those that have none are named."""
    if not args.contaminated:
        return {}
    from jaxpt.evaluation.harness.clean import clean_documents

    found = clean_documents(folder, contamination.read_all(args.contaminated))
    for task in tasks:
        if task not in found:
            print(f"jaxpt eval: {task} has no clean score: none of its documents is in the files", file=sys.stderr)
    return found


def _score_again(args: argparse.Namespace) -> int:
    """Adds clean scores to results that are there."""
    from jaxpt.evaluation.harness import clean

    if not args.output:
        raise JaxptError("--contaminated without --model scores results again: give their folder by --output")
    results, file = clean.read_results(Path(args.output))
    lines = clean.add_clean(results, contamination.read_all(args.contaminated))
    clean.rewrite(results, file)
    _report_clean(clean.tables(results), lines)
    print(f"results in {file}")
    return 0


def _report_clean(text: str, lines: Sequence[str]) -> None:
    print(f"\n{text}")
    for line in lines:
        print(f"jaxpt eval: {line}", file=sys.stderr)
