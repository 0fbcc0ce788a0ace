"""`jaxpt-data inspect`: what a packed source holds, or what the steps of a pipeline did and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_tools.io import ownership, storage
from data_tools.pipelines import flags
from data_tools.reports import page, report
from jaxpt.cli.terminal import table
from jaxpt.cli.visible import visible
from jaxpt.config.choice import option
from jaxpt.data.describe import describe, show_rows
from jaxpt.data.packed import PackedSource

HELP = "show what steps removed and why (with a page to look at), or what a packed source holds"

EXAMPLE = """\
example:
  jaxpt-data inspect packed/web --rows=2
  jaxpt-data inspect packed/web --verify
  jaxpt-data inspect data/web --html=report.html        # a workdir of run, or one step's folder
"""


@dataclass(frozen=True)
class Inspect:
    """What is looked at, and how."""

    path: str = option(doc="a packed source, a step's folder or a pipeline's workdir", positional=True)
    tokenizer: str | None = option(None, "shows the rows as text")
    rows: int = option(0, "how many rows to show, evenly spaced")
    verify: bool = option(False, "rehash every file")
    html: str | None = option(None, "of steps: write the report to this file (default: PATH/report.html)")
    alarm: float = option(0.5, "warn of a source that lost more than this share")

    def run(self) -> None:
        """Prints it."""
        if not (Path(self.path) / "source.json").is_file() and (steps := report.look(self.path)):
            self._show_steps(steps)
            return
        source = PackedSource.open(self.path)
        print(describe(source))
        if self.verify:
            source.verify()
            print("every file is as it was packed")
        if self.rows:
            print(show_rows(source, self.rows, self.tokenizer))

    def _show_steps(self, steps: Sequence[report.StepReport]) -> None:
        """Prints what each rule took out of each source, the alarms last, and writes the page."""
        print(table(["step", "source", "rule", "documents", "words", "of its words"], report.rows(steps)))
        if found := [row for step in steps for row in report.held(step)]:
            print(table(["evaluation set", "source", "items held", "of the set", "documents"], found))
        print(*report.alarms(steps, self.alarm), sep="\n")
        file = self.html or storage.join(self.path, "report.html")
        ownership.check_file(file, page.MARK)
        with storage.new_file(file) as new:
            new.write_text(visible(page.page(steps, str(self.path), self.alarm)), encoding="utf-8")
        print(f"report: {file}")


def main(argv: Sequence[str]) -> int:
    """Parses arguments and prints; returns 0."""
    flags.parse(Inspect, argv, "jaxpt-data inspect", HELP, EXAMPLE).run()
    return 0
