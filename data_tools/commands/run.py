"""`jaxpt-data run`: a whole pipeline from a config, killed and run again at will."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.io import storage
from data_tools.pipelines import plan
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.files.lock import Lock, inside

HELP = "run a whole pipeline: every step of a config, those done already left as they are"

EXAMPLE = """examples:
  jaxpt-data run --config=configs/data/web.py:'raw/*.jsonl.gz' --workdir=data/web --config.tokenizer=TOKENIZER
  jaxpt-data run --config=configs/data/web.py:'raw/*.jsonl.gz' --workdir=data/web --dry_run \\
                 --config.steps[1].options.strictness=harsh"""


def parser() -> Parser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data run", HELP, EXAMPLE, plan.Pipeline)
    out.add_argument("--config", required=True, metavar="FILE[:ARG]", help="Python file with get_config()")
    out.add_argument("--workdir", required=True, help="folder of all steps; run again, it goes on where it stopped")
    out.add_argument(
        "--take_over", action="store_true", help="the pipeline's writer on another machine is gone for good"
    )
    out.add_argument("--dry_run", action="store_true", help="check everything, show the plan, run nothing")
    return out


def main(argv: Sequence[str]) -> int:
    """Checks all steps, then runs what is not done; returns 0 when all is done."""
    overrides = [a for a in argv if a.startswith(("--config.", "--noconfig."))]
    args = parser().parse_args([a for a in argv if a not in overrides])
    if storage.is_remote(args.workdir):
        raise JaxptError(f"--workdir={args.workdir} must be a local folder; its input may be remote")
    pipeline = load(plan.Pipeline, args.config, overrides)
    steps = plan.plan(pipeline, args.workdir)
    rows = [(s.name, plan.state(s, args.workdir), f"jaxpt-data {s.command} {' '.join(s.argv)}") for s in steps]
    print(table(["step", "state", "command"], rows))
    if not args.dry_run:
        workdir = Path(args.workdir)
        with Lock(inside(workdir), workdir).acquire(args.take_over):
            plan.run(steps, args.workdir)
        print(f"all {len(steps)} steps are done; jaxpt-data inspect {args.workdir} shows what each did")
    return 0
