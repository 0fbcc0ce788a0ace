"""`jaxpt-data clean`: drop, cut and repair raw text by a preset, and keep a record of everything that went."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data_tools.clean import domains, presets
from data_tools.clean.addresses import domain
from data_tools.clean.edits import EDITS
from data_tools.clean.language import SHIPPED, identifier
from data_tools.clean.measures import MEASURES
from data_tools.clean.pipeline import WRAP, Cleaner
from data_tools.io import ownership, storage
from data_tools.io.batch import strings, texts
from data_tools.io.outputs import check_outputs
from data_tools.pipelines.document_step import DocumentStep
from data_tools.shards.alarms import Loss, warnings
from data_tools.shards.counts import total
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import LIMIT, LIMIT_HELP, check_limit, report_quarantine
from jaxpt.cli.terminal import progress, table
from jaxpt.config.choice import option
from jaxpt.errors import JaxptError

EXAMPLE = """examples:
  jaxpt-data clean --input='web/*.jsonl.gz' --output=clean --preset=fineweb
  jaxpt-data clean --input='web/*.jsonl.gz' --output=clean --preset=harsh --set=words.least=200
  jaxpt-data clean --input='zh/*.jsonl.gz' --output=clean --preset=fineweb2-zh --lid_model=glotlid.bin
  jaxpt-data clean --list"""


@dataclass(frozen=True)
class Clean(DocumentStep):
    """Drop, cut and repair raw text by a preset of rules."""

    example: ClassVar[str] = EXAMPLE

    input: str | None = option(None, "globs of JSONL (.gz, .zst), Parquet, WARC or HTML files, comma-separated")
    output: str | None = option(None, "folder: shards of the same names, removals, quarantine, manifests, clean.json")
    preset: str = option("fineweb", f"{', '.join(presets.names())}, or a JSON file of your own")
    set: tuple[str, ...] = option((), "change the preset", metavar="RULE.OPTION=VALUE")
    lid_model: str | None = option(None, "fastText file for language identification (lid.176, GlotLID)")
    lines: str | None = option(None, "folder of the lines counted per domain (OUTPUT/lines)")
    alarm: float = option(0.5, "warn when a source loses more than this share", changes_output=False)
    list: bool = option(False, "show the rules and edits of the preset and all others")
    quarantine_limit: float = option(LIMIT, LIMIT_HELP, changes_output=False)
    text_field: str = option("text", "of records: where the text is")
    workers: int = option(1, "processes over shards; 0: one per core", changes_output=False)

    def run(self) -> None:
        """Cleans shard after shard; finished shards are not done again."""
        preset = presets.load(self.preset, self._changes())
        if self.list:
            print(describe(preset))
            return
        if not (self.input and self.output):
            raise JaxptError("clean needs --input and --output (or --list)")
        if not 0 < self.alarm <= 1:
            raise JaxptError(f"--alarm={self.alarm} must be a share in (0, 1]")
        check_limit(self.quarantine_limit)
        check_outputs({"--input": self.input}, {"--output": self.output, "--lines": self.lines})
        if "language" in preset.steps:
            identifier(preset.steps["language"]["model"])  # a missing package is reported before work begins
        shards = open_shards(self.input, self.text_field, self.output, caps=self.caps)
        with ownership.writing(self.output, "clean"):
            self._clean(shards, preset)

    def _changes(self) -> tuple[str, ...]:
        """What is changed of the preset."""
        if not self.lid_model:
            return self.set
        if not Path(self.lid_model).is_file():
            raise JaxptError(f"--lid_model={self.lid_model}: there is no such file")
        return (*self.set, f"language.model={self.lid_model}")

    def _clean(self, shards: Sequence[FileShard], preset: presets.Preset) -> None:
        settings = preset.settings()
        if "domain_lines" in preset.steps and not preset.steps["domain_lines"]["file"]:
            file = _count_lines(shards, Path(self.lines or Path(self.output) / "lines"), preset.steps["domain_lines"])
            settings["lines"] = file.name
            preset = presets.load(self.preset, [*self._changes(), f"domain_lines.file={file}"])
        if "language" in preset.steps and preset.steps["language"]["model"] != SHIPPED:
            settings["model_bytes"] = Path(preset.steps["language"]["model"]).stat().st_size
        rules = preset.rules()
        manifests = run_shards(shards, self.output, settings, Cleaner(preset), "clean", rules, self.workers)
        summary = total(manifests)
        print(_report(summary, manifests))
        alarms = [*_causes(summary), *_alarms(summary, self.alarm)]
        print(*alarms, sep="\n", end="\n" if alarms else "")
        facts = {"preset": preset.name, **settings, "sources": summary, "alarms": alarms}
        facts["in_quarantine"] = {m["name"]: m["quarantined"] for m in manifests}
        storage.write_json(storage.join(self.output, "clean.json"), facts)
        report_quarantine(manifests, self.output, self.text_field, self.quarantine_limit)


HELP = Clean.summary()
main = Clean.main


def _count_lines(shards: Sequence[FileShard], folder: Path, options: Mapping[str, Any]) -> Path:
    """Runs the first pass: counts the lines of every domain."""

    def records(shard: FileShard) -> Iterator[tuple[str, str]]:
        for batch in shard.batches():
            yield from zip(texts(batch), map(domain, strings(batch, "url")))

    with progress(len(shards), "count lines per domain", "shard") as bar:

        def reader(shard: FileShard) -> Iterator[tuple[str, str]]:
            yield from records(shard)
            bar.update()

        jobs = [(s.name, s.fingerprint, lambda s=s: reader(s)) for s in shards]
        return domains.count(folder, jobs, int(options["least"]), int(options["splits"]))


def describe(preset: presets.Preset) -> str:
    """Returns the steps of a preset with their values, and what else there is, as tables."""
    about = {name: m.about for name, m in MEASURES.items()} | {name: f"edit: {e.about}" for name, e in EDITS.items()}
    rows = []
    for name, options in preset.steps.items():
        bounds = [f"{key} {options[key]:g}" for key in ("least", "most") if options.get(key) is not None]
        more = [f"{k}={_short(v)}" for k, v in options.items() if k not in ("least", "most")]
        rows.append((name, ", ".join(bounds), about.get(name, "counted by an edit"), " ".join(more)))
    others = [(name, text) for name, text in about.items() if name not in preset.steps]
    title = f"preset {preset.name}, segmenter {preset.segmenter}"
    parts = [title, table(["rule or edit", "kept when", "measures", "options"], rows)]
    return "\n\n".join([*parts, table(["not in this preset", "measures"], others)])


def _short(value: object) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _report(summary: Mapping[str, Any], manifests: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for source, facts in sorted(summary.items()):
        worst = Counter({rule: gone["documents"] for rule, gone in facts["removed"].items()}).most_common(3)
        before, after = facts["in"], facts["kept"]
        rows.append(
            (
                source,
                before["documents"],
                after["documents"],
                f"{after['documents'] / max(before['documents'], 1):.1%}",
                f"{after['words'] / max(before['words'], 1):.1%}",
                ", ".join(f"{rule} {count:,}" for rule, count in worst),
            )
        )
    rows.append(("(in quarantine)", sum(m["quarantined"] for m in manifests), "", "", "", ""))
    return table(["source", "documents", "kept", "of documents", "of words", "most removed by"], rows)


def _causes(summary: Mapping[str, Any]) -> list[str]:
    """Returns a line where documents went for their typesetting alone."""
    wrapped = sum(facts["causes"].get(WRAP, 0) for facts in summary.values())
    lost = sum(amount["documents"] for facts in summary.values() for amount in facts["removed"].values())
    if not wrapped:
        return []
    return [f"{wrapped:,} of {lost:,} removed documents went for {WRAP}; --set=unwrap.on=true judges them so"]


def _alarms(summary: Mapping[str, Any], alarm: float) -> list[str]:
    losses = []
    for source, facts in summary.items():
        before, after = facts["in"]["documents"], facts["kept"]["documents"]
        lost = 1 - after / max(before, 1)
        line = f"warning: {source} lost {lost:.0%} of its documents (alarm at {alarm:.0%})"
        losses.append(Loss(source, before, after, lost, line))
    return warnings(losses, alarm)
