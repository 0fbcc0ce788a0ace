"""`jaxpt inspect`: says what a path is and shows what it holds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import AbstractMesh

from jaxpt import api
from jaxpt.bundles import Bundle, open_bundle
from jaxpt.checkpoints import marks
from jaxpt.checkpoints.checkpoints import finished_steps, model_of, read_run
from jaxpt.checkpoints.named import named_checkpoint
from jaxpt.checkpoints.newest import read_checkpoint
from jaxpt.checkpoints.run_files import read_lineage
from jaxpt.cli.dispatch import Parser
from jaxpt.cli.terminal import table
from jaxpt.commands.distill_cache import summary
from jaxpt.data.describe import describe, show_rows
from jaxpt.data.log import ScheduleLog
from jaxpt.data.packed import PackedSource
from jaxpt.data.quota import ONE
from jaxpt.data.remote import is_remote
from jaxpt.data.target_cache import WHOLE, TargetCache
from jaxpt.errors import JaxptError
from jaxpt.files.digests import read_json
from jaxpt.models.config import ModelConfig
from jaxpt.models.size import flops_per_token, param_count
from jaxpt.models.specs import flatten, param_specs
from jaxpt.sharding import MESH_AXES, partition_specs
from jaxpt.sharding.mesh import parse_axes
from jaxpt.training.starting_point import ledger_of

HELP = "show a bundle, run, checkpoint, Hugging Face directory, packed source or cache of teacher targets"

EPILOG = """\
example:
  jaxpt inspect runs/quickstart/run
  jaxpt inspect BUNDLE --mesh=fsdp=8,tensor=4        # the parameter table with each leaf's sharding
  jaxpt inspect packed/code --rows=2
  jaxpt inspect packed/code.targets --verify         # what jaxpt distill-cache kept; every file is rehashed
"""


def main(argv: Sequence[str]) -> int:
    """Parses arguments and prints."""
    parser = Parser("jaxpt inspect", HELP, EPILOG)
    parser.add_argument("path")
    parser.add_argument("--mesh", help="for instance fsdp=8,tensor=4: show how parameters would lie on it")
    parser.add_argument("--rows", type=int, default=0, help="packed source: how many rows to show")
    parser.add_argument("--tokenizer", help="packed source: show rows as text")
    parser.add_argument("--verify", action="store_true", help="rehash every file of a bundle, packed source or cache")
    args = parser.parse_args(list(argv))
    path = named_checkpoint(args.path)
    if is_remote(args.path) or (path / "source.json").is_file():
        source = PackedSource.open(args.path)
        print(describe(source))
        if args.rows:
            print(show_rows(source, args.rows, args.tokenizer))
        return _verified(source, args.verify)
    if (path / WHOLE).is_file():
        cache = TargetCache.open(path)
        print(table([str(path), ""], [[k, str(v)] for k, v in cache.facts.items() if k != "files"]))
        print(summary(cache))
        return _verified(cache, args.verify)
    kind = api.kind_of(path)
    if args.verify and kind != "bundle":
        raise JaxptError(f"--verify: {path} is not a bundle, packed source or cache; leave --verify out")
    print(f"{path}: {kind.replace('_', ' ')}\n")
    config, dtypes, lineage, rest = _facts(path, kind)
    print(_config(config), "\n")
    print(parameters(config, dtypes, args.mesh), "\n")
    print(_lineage(lineage, kind))
    print(rest, end="")
    return _verified(open_bundle(path), True) if args.verify else 0


def _verified(what: Bundle | PackedSource | TargetCache, asked: bool) -> int:
    """Rehashes every file where that was asked for; raises a JaxptError for one that was changed."""
    if asked:
        what.verify()
        print("every file is as it was written")
    return 0


def _facts(path: Path, kind: str) -> tuple[ModelConfig, Mapping[str, str], Sequence[Mapping[str, object]], str]:
    """Config, stored dtype of each leaf, lineage, and what else is shown; reads no parameter."""
    if kind == "bundle":
        bundle = open_bundle(path)
        ledger = _ledger(ledger_of(bundle.lineage).to_json())
        return bundle.config, bundle.dtypes, bundle.lineage, f"\n{ledger}\n"
    if kind == "hugging_face":
        from jaxpt import interop

        return interop.read_hf_config(path), {}, [], ""
    run, step = (path, None) if kind == "run" else (path.parents[1], int(path.name))
    facts = read_checkpoint(run, step, lambda step: read_run(run, step))
    return model_of(facts), {}, _lineage_of_run(run, facts), f"{_run(run, facts)}\n"


def _lineage_of_run(run: Path, facts: Mapping[str, Any]) -> list[Mapping[str, object]]:
    """What the run started from, and its own steps until this checkpoint."""
    before: list[Mapping[str, object]] = [*read_lineage(run)]
    if not before and read_json(run, "config.json", dict).get("init_from") is None:
        before = [{"op": "init", "why": "parameters drawn at random"}]
    entry = {"op": "train", "options": {"run": run.name}, "steps": facts["step"], "tokens": facts["tokens"]}
    return [*before, entry]


def _config(config: ModelConfig) -> str:
    values = {k: v for k, v in config.to_dict().items() if k != "layers"}
    rows = [[k, str(v)] for k, v in values.items() if v is not None]
    kinds = [
        f"{run['count']} × {', '.join(f'{k}={v}' for k, v in run.items() if k != 'count' and v is not None)}"
        for run in config.to_dict()["layers"]
    ]
    rows.append(["layers", "; ".join(kinds)])
    flops = flops_per_token(config, config.max_positions)
    rows += [
        ["parameters", f"{param_count(config):,}"],
        [f"FLOPs per token at {config.max_positions:,}", f"{flops:.4g}"],
    ]
    return table(["config", ""], rows)


def parameters(config: ModelConfig, dtypes: Mapping[str, str], mesh: str | None) -> str:
    """Returns the parameter table: path, shape, axes, and sharding on `mesh` ("fsdp=8,tensor=4").

    Raises:
        JaxptError: a mesh that is not of this form, or does not divide the parameters.
    """
    specs = param_specs(config)
    where = flatten(partition_specs(specs, _mesh(mesh))) if mesh else {}
    rows = []
    for path, spec in flatten(specs).items():
        row = [path, " × ".join(map(str, spec.shape)), " ".join(spec.axes), spec.size]
        row += [dtypes[path]] if dtypes else []
        row += [" ".join(str(a or "-") for a in where[path]) or "whole"] if mesh else []
        rows.append(row)
    head = ["parameter", "shape", "axes", "entries", *(["dtype"] if dtypes else []), *(["sharding"] if mesh else [])]
    return table(head, rows)


def _mesh(text: str) -> AbstractMesh:
    lengths = parse_axes(text, "--mesh")
    if -1 in lengths.values():
        raise JaxptError(f"--mesh={text}: give every length, there are no devices to divide")
    return AbstractMesh(tuple(lengths.get(n, 1) for n in MESH_AXES), MESH_AXES)


def _lineage(lineage: Sequence[Mapping[str, object]], kind: str) -> str:
    if not lineage and kind == "hugging_face":
        return "lineage: not known, a Hugging Face directory keeps none; jaxpt import begins one"
    if not lineage:
        return "lineage: none, nothing was recorded of where these parameters come from"
    rows = []
    for i, entry in enumerate(lineage):
        rest = {k: v for k, v in entry.items() if k not in ("op", "tokens", "ledger", "files") and v is not None}
        rows.append([str(i), str(entry.get("op")), entry.get("tokens") or 0, json.dumps(rest, default=str)[:110]])
    return table(["lineage", "what", "tokens", ""], rows)


def _run(run: Path, facts: Mapping[str, Any]) -> str:
    steps = finished_steps(run)
    best = [
        f"best of stage {one.stage} by {kept.metric} of {kept.entry}: {one.step} ({one.value:.4g})"
        for kept, one in marks.best_of(run, steps)
    ]
    have = ", ".join(map(str, steps))
    lines = [f"\ncheckpoints: {have}; shown: {facts['step']}, {facts['tokens']:,} tokens", *best, ""]
    return "\n".join(
        [*lines, _schedule(ScheduleLog.from_json(facts["schedule_log"])), _ledger(facts.get("ledger", []))]
    )


def _schedule(log: ScheduleLog) -> str:
    """Where batch size or weights changed so far, and what the plan has for later."""
    held = [(a.batch_size, a.sequence_length, a.weights) for a in log.anchors]
    changes = [a for i, a in enumerate(log.anchors) if not i or held[i] != held[i - 1]]
    reached = log.anchors[-1].step if log.anchors else -1
    rows = [
        [e.step, "reached" if e.step <= reached else "planned", e.batch_size, e.sequence_length]
        + [round(w / ONE, 4) for w in e.weights]
        for e in [*changes, *(e for e in log.entries if e.step > reached)]
    ]
    return table(["mixture from step", "", "rows", "tokens per row", *log.names], rows) + "\n"


def _ledger(used: Sequence[Mapping[str, Any]]) -> str:
    """A line per source and epoch: rows that were used, and where in the epoch's order they lie."""
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for e in used:
        groups.setdefault((e["name"], e["fingerprint"], e["epoch"]), []).append(e)
    rows = []
    for (name, fingerprint, epoch), ranges in groups.items():
        count = sum(len(range(e["start"], e["stop"], e.get("every", 1))) for e in ranges)
        first, last = min(e["start"] for e in ranges), max(e["stop"] for e in ranges)
        rows.append([name, epoch, count, first, last, len(ranges), fingerprint[:12], ranges[-1]["path"]])
    head = ["ledger", "epoch", "rows used", "from", "to", "ranges", "content", "path"]
    return table(head, rows) if rows else "ledger: empty"
