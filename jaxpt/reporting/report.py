"""One HTML page of a run: what it is, how it went, what it used."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from jaxpt.errors import JaxptError
from jaxpt.models.config import ModelConfig
from jaxpt.reporting import stages
from jaxpt.reporting.pictures import PICTURES
from jaxpt.reporting.series import series
from jaxpt.training.metrics import read

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: right }
td:first-child, th:first-child { text-align: left } th { border-bottom: 1px solid #bbb; font-weight: 600 }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem } img { max-width: 29rem; width: 100% }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: 12px }
"""


def write_report(workdir: str | Path) -> Path:
    """Writes `report/index.html` (self-contained) and its pictures as PNG files into a run directory.

    Raises:
        JaxptError: no run directory, or nothing logged yet.
    """
    workdir = Path(workdir)
    metrics = workdir / "metrics.jsonl"
    if not metrics.is_file():
        raise JaxptError(f"--workdir={workdir} is no run directory: it has no metrics.jsonl")
    records = read(metrics)
    if not records:
        raise JaxptError(f"{metrics} holds no records yet; report again after the first {metrics.name} line")
    out = workdir / "report"
    out.mkdir(exist_ok=True)
    images = []
    for name, draw in PICTURES.items():
        figure = draw(records)
        if figure is None:
            continue
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110)
        plt.close(figure)
        (out / f"{name}.png").write_bytes(data.getvalue())
        images.append(f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">')
    model = ModelConfig.from_dict(json.loads((workdir / "model.json").read_text(encoding="utf-8"))["config"])
    config = (workdir / "config.json").read_text(encoding="utf-8")
    page = "\n".join(
        [
            "<!doctype html><meta charset=utf-8>",
            f"<title>{html.escape(workdir.name)}</title><style>{STYLE}</style>",
            f"<h1>{html.escape(str(workdir))}</h1>",
            _summary(records, model),
            '<div class="pictures">',
            *images,
            "</div>",
            f"<h2>Stages</h2>{_table(*stages.stages(records, json.loads(config)))}",
            f"<h2>Mixtures</h2>{_table(*stages.mixtures(records))}",
            _first_and_last("Evaluation", records, "eval/"),
            _first_and_last("Mixtures of experts", records, "moe/"),
            "<h2>Config</h2>",
            f"<pre>{html.escape(config)}</pre>",
        ]
    )
    target = out / "index.html"
    target.write_text(page, encoding="utf-8")
    return target


def _summary(records: Sequence[Mapping[str, Any]], model: ModelConfig) -> str:
    last = next((r for r in reversed(records) if "train/loss" in r), records[-1])
    rates = [r["perf/tokens_per_s"] for r in records if "perf/tokens_per_s" in r and not r.get("perf/warmup")]
    shape = (
        f"{len(model.layers)} layers, embed {model.embed}, heads {model.heads} over {model.kv_heads}, mlp {model.mlp}"
    )
    if model.moe is not None:
        m = model.moe
        shape += f"; {m.experts} experts of {m.mlp}, {m.experts_per_token} per token"
        shape += f", shared {m.shared_mlp}" if m.shared_mlp else ""
        shape += f", in {len(model.layers_of('moe'))} layers, {model.active_param_count():,} parameters active"
    rows = [
        ["model", f"{model.param_count():,} parameters: {shape}, vocabulary {model.vocab_size:,}"],
        ["step", f"{last['step']:,}"],
        ["tokens", f"{last.get('tokens', 0):,}"],
    ]
    if "train/loss" in last:
        rows.append(["training loss", f"{last['train/loss']:.4f}"])
    if rates:
        rows.append(["tokens per second, median", f"{sorted(rates)[len(rates) // 2]:,.0f}"])
    return _table(["", ""], rows)


def _first_and_last(title: str, records: Sequence[Mapping[str, Any]], prefix: str) -> str:
    found = series(records, prefix)
    if not found:
        return ""
    rows = [
        [name, f"{values[0]:.4f} (step {steps[0]:,})", f"{values[-1]:.4f} (step {steps[-1]:,})"]
        for name, (steps, values) in found.items()
    ]
    return f"<h2>{title}</h2>{_table(['', 'first', 'last'], rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
