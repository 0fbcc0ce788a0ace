"""`jaxpt-data run`: a whole pipeline from a config, killed and run again at will."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.io import storage
from data_tools.pipelines import flags
from data_tools.pipelines.pipeline import Pipeline
from data_tools.pipelines.planning import plan
from data_tools.pipelines.running import run, state
from jaxpt.cli.dispatch import OVERRIDE
from jaxpt.cli.terminal import table
from jaxpt.config.choice import option
from jaxpt.config.file import load
from jaxpt.errors import JaxptError
from jaxpt.files.absent import absent_model
from jaxpt.files.lock import Lock, inside

HELP = "run a whole pipeline: every step of a config, those done already left as they are"

EXAMPLE = """examples:
  jaxpt-data run --config=configs/data/web.py:'raw/*.jsonl.gz' --workdir=data/web --config.tokenizer=TOKENIZER
  jaxpt-data run --config=configs/data/web.py:'raw/*.jsonl.gz' --workdir=data/web --dry_run \\
                 --config.tokenizer=TOKENIZER --config.steps[1].options.strictness=harsh"""


@dataclass(frozen=True)
class Run:
    """Which pipeline runs, and where."""

    config: str = option(doc="Python file with get_config()", metavar="FILE[:ARG]")
    workdir: str = option(doc="folder of all steps; run again, it goes on where it stopped")
    take_over: bool = option(False, "the pipeline's writer on another machine is gone for good")
    dry_run: bool = option(False, "check everything, show the plan, run nothing")

    def run(self, overrides: Sequence[str]) -> None:
        """Checks all steps, then runs what is not done.

        Args:
            overrides: `--config.key=value` flags.
        """
        if storage.is_remote(self.workdir):
            raise JaxptError(f"--workdir={self.workdir} must be a local folder; its input may be remote")
        pipeline = load(Pipeline, self.config, overrides)
        if pipeline.tokenizer and not Path(pipeline.tokenizer).exists():  # known before hours of cleaning
            why = absent_model(pipeline.tokenizer)
            raise JaxptError(f"config.tokenizer={pipeline.tokenizer} {why}; give --config.tokenizer=PATH")
        steps = plan(pipeline, self.workdir)
        rows = [(s.name, state(s, self.workdir), f"jaxpt-data {s.command} {' '.join(s.argv)}") for s in steps]
        print(table(["step", "state", "command"], rows))
        if self.dry_run:
            return
        workdir = Path(self.workdir)
        with Lock(inside(workdir), workdir).acquire(self.take_over):
            run(steps, self.workdir)
        print(f"all {len(steps)} steps are done; jaxpt-data inspect {self.workdir} shows what each did")


def main(argv: Sequence[str]) -> int:
    """Runs the pipeline; returns 0 when all of it is done."""
    overrides = [a for a in argv if a.startswith(OVERRIDE)]
    rest = [a for a in argv if not a.startswith(OVERRIDE)]
    flags.parse(Run, rest, "jaxpt-data run", HELP, EXAMPLE, config=Pipeline).run(overrides)
    return 0
