"""A run at a glance: what it is, how far it came, what it reached, at which speed."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from jaxpt.models.config import ModelConfig
from jaxpt.models.size import active_param_count, param_count
from jaxpt.reporting.series import Records, series
from jaxpt.training.config import RunConfig
from jaxpt.training.history import Leg, whole
from jaxpt.training.metrics import read

TableRows = list[list[str]]


def summary(
    records: Records, events: Records, model: ModelConfig, config: RunConfig, past: Sequence[Leg] = ()
) -> TableRows:
    """Returns rows of a name and what there is to say; `past` are the steps of the newest checkpoint."""
    last = next((r for r in reversed(records) if "train/loss" in r), records[-1])
    legs = whole(config.stages, past)
    done, steps, tokens = last["step"], legs[-1].stop, sum(leg.tokens for leg in legs)
    rows = [
        ["model", _shape(model)],
        ["steps", f"{done:,} of {steps:,}" + (", finished" if done == steps else f" ({done / steps:.0%})")],
        ["tokens", f"{last.get('tokens', 0):,} of {tokens:,}"],
    ]
    if "flops" in last:
        with_frozen = any("perf/frozen_share" in r for r in records)
        included = ", forward passes of frozen models included" if with_frozen else ""
        rows.append(["FLOPs", f"{last['flops']:.3g}{included}"])
    if "train/loss" in last:
        rows.append(["training loss, last step logged", f"{last['train/loss']:.4f}"])
    apart = [abs(v) for _, values in series(records, "data/deviation/").values() for v in values]
    if apart:
        rows.append(["mixture", f"at no logged step was a source more than {max(apart):.2f} rows from what was wanted"])
    return rows + _speed(records) + _starts(events)


def read_events(path: Path) -> Records:
    """Returns the events of an events.jsonl, none where there is no file; a half-written last line is left out."""
    return read(path) if path.is_file() else []


def _shape(model: ModelConfig) -> str:
    shape = (
        f"{len(model.layers)} layers, embed {model.embed}, heads {model.heads} over {model.kv_heads}, mlp {model.mlp}"
    )
    if model.moe is not None:
        m = model.moe
        shape += f"; {m.experts} experts of {m.mlp}, {m.experts_per_token} per token"
        shape += f", shared {m.shared_mlp}" if m.shared_mlp else ""
        shape += f", in {len(model.layers_of('moe'))} layers, {active_param_count(model):,} parameters active"
    return f"{param_count(model):,} parameters: {shape}, vocabulary {model.vocab_size:,}"


def _speed(records: Records) -> TableRows:
    warm = [r for r in records if "perf/tokens_per_s" in r and not r.get("perf/warmup")]
    if not warm:
        return []
    text = f"{median(r['perf/tokens_per_s'] for r in warm):,.0f} tokens/s"
    if "perf/mfu" in warm[-1]:
        text += f", MFU {median(r['perf/mfu'] for r in warm):.1%}"
        shares = sorted({round(r["perf/frozen_share"], 4) for r in warm if "perf/frozen_share" in r})
        if shares:
            text += f" (frozen models included, {' and '.join(f'{s:.1%}' for s in shares)} of a step's FLOPs)"
    if "perf/data_wait_s" in warm[-1]:
        text += (
            f", {sum(r['perf/data_wait_s'] for r in warm) / sum(r['perf/step_s'] for r in warm):.1%} waiting for data"
        )
    return [["speed, median without compilation", text]]


def _starts(events: Records) -> TableRows:
    begun = [e for e in events if e["event"] in ("start", "resume")]
    if not begun:
        return []
    resumed = [f"{e['step']:,}" for e in begun if e["event"] == "resume"]
    mesh = " × ".join(f"{k}={n}" for k, n in begun[-1].get("mesh", {}).items() if n > 1) or "one device"
    rows = [["mesh", mesh]]
    if resumed:
        named = ", ".join(resumed[-8:])
        rows.append(["starts", f"{len(begun)}, resumed at step {'… ' if len(resumed) > 8 else ''}{named}"])
    return rows
