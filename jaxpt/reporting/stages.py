"""A run's stages as tables: planned, trained so far, and how exactly their mixtures were delivered."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpt.reporting.series import Records
from jaxpt.training.config import RunConfig
from jaxpt.training.history import Leg, spans

Table = tuple[list[str], list[list[str]]]
NEAR = 0.5  # per cent of a stage's rows: a row more or less of a short stage


def by_stage(records: Records) -> Mapping[str, Records]:
    """Returns the training records of each stage, in the order in which the stages began."""
    out: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if "stage" in record and "train/loss" in record:
            out.setdefault(record["stage"], []).append(record)
    return out


def planned(config: RunConfig, past: Sequence[Leg] = ()) -> Table:
    """Returns head and rows: a line per stage, as it was after the steps `past` and as it is planned from there on."""
    rows = []
    for stage, (first, stop) in zip(config.stages, spans(config.stages, past)):
        peak = config.optimizer.learning_rate if stage.learning_rate is None else stage.learning_rate
        mixture = ", ".join(f"{name} {json.dumps(weight)}" for name, weight in stage.mixture.items())
        batch = f"{stage.batch_size:,} × {stage.sequence_length:,}"
        rows.append([stage.name, f"{first:,} … {stop:,}", batch, f"{stage.schedule.name}, peak {peak:g}", mixture])
    return ["stage", "steps", "batch size × sequence length", "learning rate", "mixture"], rows


def trained(records: Records) -> Table:
    """Returns head and rows: a line per stage that began; rates and losses are those of its first and last record."""
    head = ["stage", "steps", "tokens", "learning rate", "loss"]
    rows, step, tokens = [], 0, 0
    for name, of_stage in by_stage(records).items():
        last = of_stage[-1]
        rates, losses = (
            [f"{r[key]:.4g}" for r in (of_stage[0], last)] for key in ("optim/learning_rate", "train/loss")
        )
        steps = f"{last['step'] - step:,}, to {last['step']:,}"
        rows.append([name, steps, f"{last['tokens'] - tokens:,}", " → ".join(rates), " → ".join(losses)])
        step, tokens = last["step"], last["tokens"]
    return head, rows


def mixtures(records: Records) -> Table:
    """Returns head and rows: each source's share of each stage's rows, since the stage's weights last changed.

    What was wanted is beside a share that is off by more than `NEAR`. The last column counts rows ahead of what was
    wanted over the whole run.
    """
    last = {name: of_stage[-1] for name, of_stage in by_stage(records).items()}
    names = list(dict.fromkeys(k.removeprefix("data/share/") for r in last.values() for k in r if "data/share/" in k))
    rows = []
    for name in names:
        row = [name]
        for record in last.values():
            share, wanted = (100 * record.get(f"data/{what}/{name}", 0.0) for what in ("share", "wanted"))
            note = f" ({wanted:.2f} wanted)" if abs(share - wanted) > NEAR else ""
            row.append(f"{share:.2f}{note}" if share or wanted else "")
        ahead = list(last.values())[-1].get(f"data/deviation/{name}")
        rows.append([*row, "" if ahead is None else f"{ahead:+.2f}"])
    return ["% of rows", *last, "rows ahead"], rows
