"""`jaxpt-data clean`: drop, cut and repair raw text by a preset, and keep a record of everything that went."""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data_tools.clean import domains, presets
from data_tools.clean.addresses import domain
from data_tools.clean.edits import EDITS
from data_tools.clean.language import SHIPPED, identifier
from data_tools.clean.measures import MEASURES
from data_tools.clean.pipeline import Clean
from data_tools.io import made, storage
from data_tools.io.batch import strings, texts
from data_tools.io.outputs import check_outputs
from data_tools.shards.counts import total
from data_tools.shards.records import FileShard, open_shards, run_shards
from data_tools.shards.rows import tell_quarantine
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import progress, table
from jaxpt.errors import JaxptError

HELP = "drop, cut and repair raw text by a preset of rules"

EXAMPLE = """examples:
  jaxpt-data clean --input='web/*.jsonl.gz' --output=clean --preset=fineweb
  jaxpt-data clean --input='web/*.jsonl.gz' --output=clean --preset=harsh --set=words.least=200
  jaxpt-data clean --input='zh/*.jsonl.gz' --output=clean --preset=fineweb2-zh --lid_model=glotlid.bin
  jaxpt-data clean --list"""


def parser() -> argparse.ArgumentParser:
    """Returns the command's flags."""
    out = Parser("jaxpt-data clean", HELP, EXAMPLE)
    out.add_argument("--input", help="globs of JSONL (.gz, .zst), Parquet, WARC or HTML files, comma-separated")
    out.add_argument("--output", help="folder: shards of the same names, removals, quarantine, manifests, clean.json")
    out.add_argument("--preset", default="fineweb", help=f"{', '.join(presets.names())}, or a JSON file of your own")
    out.add_argument("--set", action="append", default=[], metavar="RULE.OPTION=VALUE", help="change the preset")
    out.add_argument("--lid_model", help="fastText file for language identification (lid.176, GlotLID)")
    out.add_argument("--lines", help="folder of the lines counted per domain (OUTPUT/lines)")
    out.add_argument("--alarm", type=float, default=0.5, help="warn when a source loses more than this share")
    out.add_argument("--list", action="store_true", help="show the rules and edits of the preset and all others")
    out.add_argument("--text_field", default="text")
    out.add_argument("--workers", type=int, default=1, help="processes over shards; 0: one per core")
    return out


def main(argv: list[str]) -> int:
    """Runs the command; returns 0 when the job is done."""
    args = parser().parse_args(argv)
    changes = list(args.set)
    if args.lid_model:
        if not Path(args.lid_model).is_file():
            raise JaxptError(f"--lid_model={args.lid_model}: there is no such file")
        changes.append(f"language.model={args.lid_model}")
    preset = presets.load(args.preset, changes)
    if args.list:
        print(describe(preset))
        return 0
    if not (args.input and args.output):
        raise JaxptError("clean needs --input and --output (or --list)")
    if not 0 < args.alarm <= 1:
        raise JaxptError(f"--alarm={args.alarm} must be a share in (0, 1]")
    check_outputs({"--input": args.input}, {"--output": args.output, "--lines": args.lines})
    if "language" in preset.steps:
        identifier(preset.steps["language"]["model"])  # a missing package is told before work begins
    shards = open_shards(args.input, args.text_field)
    with made.writing(args.output, "clean"):
        return _clean(args, shards, preset, changes)


def _clean(args: argparse.Namespace, shards: list[FileShard], preset: presets.Preset, changes: list[str]) -> int:
    settings = preset.settings()
    if "domain_lines" in preset.steps and not preset.steps["domain_lines"]["file"]:
        file = _count_lines(shards, Path(args.lines or Path(args.output) / "lines"), preset.steps["domain_lines"])
        settings["lines"] = file.name
        preset = presets.load(args.preset, [*changes, f"domain_lines.file={file}"])
    if "language" in preset.steps and preset.steps["language"]["model"] != SHIPPED:
        settings["model_bytes"] = Path(preset.steps["language"]["model"]).stat().st_size
    manifests = run_shards(shards, args.output, settings, Clean(preset), "clean", preset.rules(), args.workers)
    summary = total(manifests)
    print(_report(summary))
    tell_quarantine(manifests, args.output, args.text_field)
    alarms = _alarms(summary, args.alarm)
    print(*alarms, sep="\n", end="\n" if alarms else "")
    facts = {"preset": preset.name, **settings, "sources": summary, "alarms": alarms}
    storage.write_json(storage.join(args.output, "clean.json"), facts)
    return 0


def _count_lines(shards: list[FileShard], folder: Path, options: dict) -> Path:
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


def _report(summary: dict) -> str:
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
    return table(["source", "documents", "kept", "of documents", "of words", "most removed by"], rows)


def _alarms(summary: dict, alarm: float) -> list[str]:
    out = []
    for source, facts in sorted(summary.items()):
        lost = 1 - facts["kept"]["documents"] / max(facts["in"]["documents"], 1)
        if lost > alarm:
            out.append(f"warning: {source} lost {lost:.0%} of its documents (alarm at {alarm:.0%})")
    return out
