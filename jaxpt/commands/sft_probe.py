"""`jaxpt sft-probe`: scores of base models and after a short fine-tune on top of each, and how the two go together."""

import argparse
import contextlib
import dataclasses
import functools
import gc
import io
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxpt.cli.dispatch import Parser
from jaxpt.cli.stopping import EXIT_PREEMPTED
from jaxpt.cli.terminal import say, table
from jaxpt.commands import train as training
from jaxpt.commands.eval import open_model
from jaxpt.config.file import load
from jaxpt.config.schema import plain
from jaxpt.data import contamination
from jaxpt.data.contamination import Contamination
from jaxpt.errors import JaxptError
from jaxpt.evaluation.option_names import SFT_PROBE_FLAGS
from jaxpt.files.lock import Lock, inside
from jaxpt.files.partial import writes
from jaxpt.models.compute import Compute
from jaxpt.sharding.mesh import parse_axes
from jaxpt.sweeps.sft_pictures import base_against_after
from jaxpt.sweeps.sft_probe import models_named, models_of_run
from jaxpt.sweeps.sft_running import SftProbe
from jaxpt.sweeps.sft_scores import ProbeResult, correlation_table, correlations, score_table, scores_of, write_results
from jaxpt.training.config import RunConfig

HELP = "score models on tasks before and after a short fine-tune on conversations, and correlate the two"

EPILOG = """\
example:
  jaxpt sft-probe --model=BUNDLE --data=CHATS --tasks=hellaswag --eval_data=EVALSETS --limit=4 \\
      --output_dir=runs/probed --config.stages[0].duration="4 steps" --config.stages[0].batch_size=2
  jaxpt sft-probe --run=runs/c --data=CHATS --tasks=hellaswag,arc_easy --eval_data=EVALSETS --limit=2 --num_fewshot=0 \\
      --config.stages[0].duration="2 steps" --config.stages[0].batch_size=2

CHATS are conversations as jaxpt-data chats writes them. Of each model (with --run each kept checkpoint) the tasks are
scored, it is fine-tuned as configs/sft_probe.py says, and they are scored again. The tables, results.json, results.md
and, of three models and more, a picture lie in the output folder. Killed and started again, what is finished is not
done again. Any key of the config may be set with --config.key=value. docs/sft_probe.md says how to read the table.
"""

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "sft_probe.py"
FORMAT = 1  # of the output folder
DECIDE = ("eval_data", "num_fewshot", "limit", "dtype", "max_length", "chat_template", "system", "seed")


def main(argv: Sequence[str]) -> int:
    """Parses arguments, checks everything that can be checked, probes, and prints the tables."""
    parser = Parser("jaxpt sft-probe", HELP, EPILOG, lambda: RunConfig)
    parser.add_argument("--model", metavar="A,B,…", help="bundles, runs, checkpoints or Hugging Face directories")
    parser.add_argument("--run", metavar="RUN", help="a run directory: each of its kept checkpoints")
    parser.add_argument("--data", metavar="CHATS", help="conversations to tune on: a folder, a file or a glob")
    parser.add_argument("--tasks", required=True, metavar="A,B,…", help="names of tasks, or task files (NAME.yaml)")
    parser.add_argument("--eval_data", metavar="DIR", help="folder with the files of evaluation sets")
    parser.add_argument("--config", metavar="FILE[:ARG]", help="of the fine-tune; default: configs/sft_probe.py")
    parser.add_argument("--output_dir", metavar="DIR", help="default: RUN.sft_probe, or MODEL.sft_probe")
    parser.add_argument(
        "--num_fewshot", type=int, metavar="N", help="examples before each question; default: the task's"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    parser.add_argument("--dtype", default="float32", help="of the evaluations: float32 or bfloat16")
    parser.add_argument("--mesh", default="", help="of the evaluations, for instance fsdp=4,tensor=2")
    parser.add_argument("--max_length", type=int, metavar="N", help="tokens that evaluations read at once")
    parser.add_argument("--batch_tokens", type=int, metavar="N", help="tokens judged at once")
    parser.add_argument(
        "--chat_template",
        choices=("none", "after", "both"),
        default="none",
        help="whose prompts are conversations: none (before and after read the same), only after the fine-tune, both",
    )
    parser.add_argument("--system", metavar="TEXT", help="what such a conversation begins with")
    parser.add_argument("--seed", type=int, default=1234, help="of the choice of examples")
    parser.add_argument(
        "--contaminated", metavar="A,B,…", help="contaminated.json files: scores without what sources hold, beside"
    )
    parser.add_argument("--keep", action="store_true", help="keep the weights of the fine-tuned models")
    parser.add_argument("--hub", action="store_true", help="tasks of lm_eval may be downloaded")
    args, overrides = parser.parse_overrides(argv)
    if find_spec("lm_eval") is None:
        raise JaxptError("jaxpt sft-probe needs the library lm_eval: pip install 'jaxpt[eval]'")
    if not args.hub:
        from jaxpt.evaluation.harness.offline import stay_offline

        stay_offline()
    return _probe(args, overrides, shlex.join(["jaxpt", "sft-probe", *argv]))


def _probe(args: argparse.Namespace, overrides: Sequence[str], command: str) -> int:
    _check(args)
    config = load(RunConfig, f"{args.config or CONFIG}{f':{args.data}' if args.data else ''}", overrides)
    _check_config(config)
    tasks = _tasks(args)  # before the models: a mistyped name costs no loading
    files = _contaminated(args, tasks)
    models = models_of_run(Path(args.run)) if args.run else models_named(args.model.split(","))
    output = Path(args.output_dir or f"{(args.run or args.model.split(',')[0]).rstrip('/')}.sft_probe")
    settings = {name: getattr(args, name) for name in DECIDE}
    settings |= {"contaminated": contamination.digest(files)} if files else {}
    settings = {"format": FORMAT, "tasks": args.tasks.split(","), **settings, "config": plain(config)}
    score = functools.partial(_scores, args, files)
    probe = SftProbe(output, config, settings, _tune, score, args.chat_template, args.keep)
    with Lock(inside(output), output, "--output_dir").acquire(), writes(output):
        probe.claim()
        results = probe.run(models)
        if results is None:
            say(f"stopped; go on with {command}")
            return EXIT_PREEMPTED
        _report(results, output)
    return 0


def _report(results: Sequence[ProbeResult], output: Path) -> None:
    found = correlations(results)
    print(f"\n{table(*score_table(results))}\n\n{table(*correlation_table(found))}")
    page = write_results(output, results, found)
    if figure := base_against_after(results):
        figure.savefig(output / "base_after.png", dpi=110)
        print(f"picture in {output / 'base_after.png'}")
    print(f"tables in {page}")


def _check(args: argparse.Namespace) -> None:
    if bool(args.model) == bool(args.run):
        raise JaxptError("give --model=PATH, or --run=RUN for all kept checkpoints of a run; one of the two")
    if not args.data and not args.config:
        raise JaxptError("--data is missing: conversations to tune on, as jaxpt-data chats writes them")
    SFT_PROBE_FLAGS.check_counts(args)
    Compute(dtype=args.dtype)
    if args.mesh:
        parse_axes(args.mesh, "--mesh")


def _check_config(config: RunConfig) -> None:
    for key in ("init_from", "branch_from", "tokenizer"):
        if getattr(config, key) is not None:
            raise JaxptError(f"config.{key}={getattr(config, key)}: a fine-tune begins at each model; leave it out")
    if not any(source.pack.kind == "chat" for source in config.sources.values()):
        raise JaxptError(f"no source of the config has pack.kind=chat; {CONFIG.name} shows one")


def _tune(config: RunConfig, workdir: Path) -> int:
    """Trains as `jaxpt train` does; its lines go into a file beside the run."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_name("sft.log").open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        code = training.train(config, workdir)
    gc.collect()  # the parameters, before the next ones are loaded
    return code


def _contaminated(args: argparse.Namespace, tasks: Sequence[Any]) -> list[Contamination]:
    """What sources hold; tasks without clean scores are named."""
    from jaxpt.evaluation.harness import clean

    files = contamination.read_all(args.contaminated) if args.contaminated else []
    for name, there in clean.check(tasks, files).items() if files else ():
        if not there:
            say(f"{name} has no clean score: none of its documents is in the files")
    return files


def _scores(
    args: argparse.Namespace,
    files: Sequence[Contamination],
    path: str,
    folder: Path,
    conversations: str | None,
) -> dict[str, Any]:
    """Evaluates as `jaxpt eval` does; results and answers go into `folder`."""
    from jaxpt.evaluation.harness import clean, evaluating

    with contextlib.redirect_stdout(io.StringIO()):
        model = open_model(
            path,
            folder,
            dtype=args.dtype,
            mesh=args.mesh,
            max_length=args.max_length,
            batch_tokens=args.batch_tokens,
            conversations=conversations,
        )
        results = evaluating.evaluate(
            model,
            _tasks(args),
            num_fewshot=args.num_fewshot,
            limit=args.limit,
            chat_template=conversations is not None,
            system_instruction=args.system if conversations is not None else None,
            seed=args.seed,
        )
        if files:
            clean.add_clean(results, files)
        evaluating.write(results, folder)
    del model
    gc.collect()
    rows = [*evaluating.rows(results), *(clean.clean_rows(results) if files else ())]
    scores = scores_of(rows, results.get("group_subtasks", {}))
    return {"scores": [dataclasses.asdict(s) for s in scores], "truncated": results["truncated_requests"]}


def _tasks(args: argparse.Namespace) -> list[Any]:
    from jaxpt.evaluation.harness import evaluating

    data = Path(args.eval_data) if args.eval_data else None
    tasks = evaluating.find_tasks(args.tasks.split(","), data, SFT_PROBE_FLAGS)
    evaluating.check_tasks(tasks, args.num_fewshot, said=SFT_PROBE_FLAGS)
    return tasks
