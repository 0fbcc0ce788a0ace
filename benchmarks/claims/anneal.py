"""Does annealing in stages, in the order of each kind's best learning rate, avoid the seesaw of mixing all at once?

Four kinds of real text. A model is trained in place (or imported: --model=HF_DIR), `jaxpt probe` finds the best rate
of each kind alone and writes the plan of stages, `jaxpt train` trains that plan as it is. Against it: the same tokens
of each kind mixed all along, once at the best rate of a sweep over the mixture, decayed to 0, once at the plan's rates.
Bits per byte of held-out text of each kind are measured at the start and after each stage. A seed is another model
(if it is trained in place) and another part of the data. Every command resumes, so the benchmark does too.

python -m benchmarks.claims.anneal --folder=runs/anneal --text exams=… --text math=… --text code=… --text general=…
python -m benchmarks.claims.anneal --folder=runs/anneal135 --model=SMOLLM2_DIR --batch=64 --length=1024 --text …
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jaxpt import tokenizers
from jaxpt.cli.terminal import table
from jaxpt.data.build import Packing, build
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.training.metrics import read

ARMS = {"staged": "stages by kind", "mixed": "all mixed, its best rate", "mixed-rates": "all mixed, the stages' rates"}
COLORS = {"staged": "C0", "mixed": "C1", "mixed-rates": "C2"}


def jaxpt(*words: str) -> None:
    """Runs a command as a user does; stops where it fails."""
    print("jaxpt", *words, flush=True)
    subprocess.run([sys.executable, "-m", "jaxpt", *words], check=True)


def prepare(a: argparse.Namespace) -> None:
    """Splits each kind's documents, trains the tokenizer (without --model) and packs, as far as it is not there."""
    (a.folder / "text").mkdir(parents=True, exist_ok=True)
    for kind, pattern in a.kinds.items():
        held, train = (a.folder / f"text/{kind}.{part}.jsonl" for part in ("held_out", "train"))
        if train.exists():
            continue
        texts = [d["text"] for f in list_files(pattern) for d in read_documents(f)]
        every = max(2, round(1 / a.held_out))
        for file, chosen in ((held, texts[::every]), (train, [t for i, t in enumerate(texts) if i % every])):
            lines = [json.dumps({"id": f"{kind}-{i}", "text": t}) + "\n" for i, t in enumerate(chosen)]
            file.write_text("".join(lines), encoding="utf-8")
    path = a.folder / "tokenizer.model"
    if not a.model and not path.exists():
        sample = [_texts(a, kind)[: a.sample] for kind in a.kinds]
        tokenizers.train_sentencepiece((t for texts in sample for t in texts), path, a.vocab)
    words = tokenizers.load(a.model or path)
    for kind in a.kinds:
        if not (a.folder / "packed" / kind).exists():
            file = str(a.folder / f"text/{kind}.train.jsonl")
            build(file, a.folder / "packed" / kind, words, a.length, Packing(packer="concat"))


def _texts(a: argparse.Namespace, kind: str) -> list[str]:
    return [json.loads(line)["text"] for line in (a.folder / f"text/{kind}.train.jsonl").read_text().splitlines()]


def base_config(a: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The model before annealing: mostly the last kind, as a base model is; with a whole schedule of its own."""
    kinds = list(a.kinds)
    shares = {kind: (1 - a.base_share) / (len(kinds) - 1) for kind in kinds[:-1]} | {kinds[-1]: a.base_share}
    wsd = {"name": "wsd", "warmup": "5%", "decay": "20%", "decay_shape": "sqrt", "end": 0.0}
    shape = {key: getattr(a, key) for key in ("embed", "layers", "heads", "kv_heads", "mlp")}
    return {
        **common(a, seed),
        "model": {**shape, "vocab_size": a.vocab, "head_dim": a.embed // a.heads, "tie_embeddings": True,
                  "max_positions": a.length},
        "stages": [stage(a, "base", a.base_tokens, shares, schedule=wsd, learning_rate=a.base_rate)],
    }  # fmt: skip


def common(a: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What all configs of a seed share."""
    held = {kind: str(a.folder / f"text/{kind}.held_out.jsonl") for kind in a.kinds}
    return {
        "seed": seed,
        "tokenizer": str(a.model or a.folder / "tokenizer.model"),
        "sources": {k: {"path": str(a.folder / "packed" / k), "order_seed": seed} for k in a.kinds},
        "evaluations": {"bits_per_byte": {"documents": held, "max_documents": a.documents, "batch_size": 32}},
        "checkpoint": {"every": "1000 steps", "keep": 1},
        "metrics": {"every": 5, "tensorboard": False},
    }


def stage(a: argparse.Namespace, name: str, tokens: int, mixture: dict[str, float], **more: Any) -> dict[str, Any]:
    """A stage of the benchmark's batch and length."""
    return {"name": name, "duration": f"{tokens} tokens", "batch_size": a.batch, "sequence_length": a.length,
            "mixture": mixture, **more}  # fmt: skip


def write(path: Path, config: dict[str, Any]) -> str:
    """Writes a config where it is not the same already; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return str(path)


def anneal(a: argparse.Namespace, seed: int) -> None:
    """All of one seed: base, probe, the plan, and what is compared with it."""
    here, cosine = a.folder / f"seed{seed}", {"name": "cosine", "warmup": "5%", "end": 0.0}
    base = str(here / "base")
    if a.model:
        base = str(a.folder / "imported")
        if not Path(base).exists():
            jaxpt("import", f"--from={a.model}", f"--to={base}")
    else:
        jaxpt("train", f"--config={write(here / 'base.json', base_config(a, seed))}", f"--workdir={base}")
    total = a.stage_tokens * len(a.kinds)
    even = dict.fromkeys(a.kinds, 1 / len(a.kinds))
    start = {**common(a, seed), "init_from": base}
    pattern = stage(a, "all", total, even, schedule=cosine, load="params")
    config = write(here / "kinds.json", {**start, "stages": [pattern]})
    each = f"--config.evaluations.bits_per_byte.every={a.stage_tokens} tokens"
    budget = [f"--rates={','.join(f'{r:g}' for r in a.rates)}", f"--tokens={a.probe_tokens}", f"--plan_tokens={total}"]
    jaxpt("probe", f"--config={config}", f"--workdir={here / 'probe'}", *budget, "--metric=eval/bpb/{kind}", each)
    plan = here / "probe/plan.json"
    jaxpt("train", f"--config={plan}", f"--workdir={here / 'staged'}")
    stages = json.loads(plan.read_text())["stages"]
    shares = {k: float(np.mean([s["mixture"].get(k, 0.0) for s in stages])) for k in a.kinds}
    mixed = {**start, "stages": [stage(a, "mixed", total, shares, schedule=cosine, load="params")]}
    config = write(here / "mixed.json", mixed)
    over = f"--over=stages[0].learning_rate={','.join(f'{r:g}' for r in a.rates)}"
    sweep = [f"--workdir={here / 'mixed_rates'}", over, f"--tokens={a.probe_tokens}", "--metric=eval/bpb/*"]
    jaxpt("sweep", f"--config={config}", *sweep)
    results = [json.loads(line) for line in (here / "mixed_rates/results.jsonl").read_text().splitlines()]
    best = min((r for r in results if r["loss"] is not None), key=lambda r: r["loss"])["values"][
        "stages[0].learning_rate"
    ]
    mixed["stages"][0]["learning_rate"] = best
    config = write(here / "mixed.json", mixed)
    jaxpt("train", f"--config={config}", f"--workdir={here / 'mixed'}", each)
    same = {**json.loads(plan.read_text()), "stages": [{**s, "mixture": shares} for s in stages]}
    config = write(here / "mixed_same_rates.json", same)
    jaxpt("train", f"--config={config}", f"--workdir={here / 'mixed-rates'}")


def measured(a: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What a seed came to: the probe's rates, and for each arm bits per byte of each kind by tokens."""
    here, out = a.folder / f"seed{seed}", {}
    plan = json.loads((here / "probe/plan.json").read_text())["stages"]
    for arm in ARMS:
        records = [r for r in read(here / arm / "metrics.jsonl") if f"eval/bpb/{next(iter(a.kinds))}" in r]
        out[arm] = {kind: [(r["tokens"], r[f"eval/bpb/{kind}"]) for r in records] for kind in a.kinds}
    points = [json.loads(line) for line in (here / "probe/results.jsonl").read_text().splitlines()]
    probe = [(r["values"]["kind"], r["values"]["learning_rate"], r["loss"]) for r in points]
    mixed = json.loads((here / "mixed.json").read_text())["stages"][0]["learning_rate"]
    stages = [(s["name"], s["learning_rate"], s["mixture"]) for s in plan]
    return {"seed": seed, "stages": stages, "mixed_rate": mixed, "probe": probe, "curves": out}


def report(a: argparse.Namespace, seeds: Sequence[dict[str, Any]]) -> str:
    """Returns the tables: rates and order of each seed, what each stage changed, and the ends of the arms."""
    kinds, lines = list(a.kinds), []
    order = [
        [s["seed"], " > ".join(f"{n} {rate:.2g}" for n, rate, _ in s["stages"]), f"{s['mixed_rate']:.2g}"]
        for s in seeds
    ]
    lines.append(table(["seed", "stages in order, with their rates", "best rate, all mixed"], order))
    rows = []
    for s in seeds:
        for arm in ARMS:
            curves = s["curves"][arm]
            for i in range(1, len(curves[kinds[0]])):
                name = s["stages"][i - 1][0] if arm == "staged" else ""
                rows.append([s["seed"], arm, i, name, *(curves[k][i][1] - curves[k][i - 1][1] for k in kinds)])
    lines.append(table(["seed", "arm", "quarter", "led by", *(f"{k}: change" for k in kinds)], rows))
    rows = []
    for arm in ["start", *ARMS]:
        curves = [s["curves"]["staged" if arm == "start" else arm] for s in seeds]
        ends = np.array([[c[k][0 if arm == "start" else -1][1] for k in kinds] for c in curves])
        means = [float(x) for x in ends.mean(axis=0)]
        rows.append([arm, *means, float(ends.mean()), ", ".join(f"{m:.4f}" for m in ends.mean(axis=1))])
    lines.append(table(["bits per byte, held out", *kinds, "mean", "mean by seed"], rows))
    return "\n\n".join(lines)


def draw(a: argparse.Namespace, seeds: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel per kind: bits per byte after each quarter, by arm, thin lines for seeds, their mean; the probe below."""
    kinds = list(a.kinds)
    figure, grid = plt.subplots(2, len(kinds), figsize=(3.1 * len(kinds), 5.6), layout="constrained")
    for axes, below, kind in zip(grid[0], grid[1], kinds):
        for arm, label in ARMS.items():
            lines = [s["curves"][arm][kind] for s in seeds]
            for line in lines:
                axes.plot([t / 1e3 for t, _ in line], [v for _, v in line], color=COLORS[arm], lw=0.6, alpha=0.45)
            mean = np.mean([[v for _, v in line] for line in lines], axis=0)
            axes.plot([t / 1e3 for t, _ in lines[0]], mean, color=COLORS[arm], lw=1.8, marker="o", ms=4, label=label)
        names = {tuple(n for n, _, _ in s["stages"]) for s in seeds}
        for i, name in enumerate(next(iter(names)) if len(names) == 1 else ()):
            axes.annotate(name, ((i + 0.5) * a.stage_tokens / 1e3, 1.0), xycoords=("data", "axes fraction"),
                          ha="center", va="bottom", fontsize=6.5, color="0.35")  # fmt: skip
        axes.set_title(kind, fontsize=10, pad=14)
        axes.set_xlabel("tokens, thousands", fontsize=8)
        for s in seeds:
            known = sorted((rate, loss) for k, rate, loss in s["probe"] if k == kind and loss is not None)
            below.plot([r for r, _ in known], [v for _, v in known], marker="o", ms=3, lw=1.2, color="0.3")
            below.axvline(next(rate for n, rate, _ in s["stages"] if n == kind), color="C3", lw=0.9, ls=":")
        below.set_xscale("log")
        below.set_xlabel("peak rate, this kind alone", fontsize=8)
        for panel in (axes, below):
            panel.grid(alpha=0.25)
            panel.tick_params(labelsize=7)
    grid[0][0].set_ylabel("bits per byte, held out", fontsize=8)
    grid[1][0].set_ylabel("probe: bits per byte, its own kind", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside upper center")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """The command line; the defaults are a run of some minutes a seed on two cores."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", type=Path, required=True, help="text, tokenizer, runs and results are kept here")
    p.add_argument(
        "--text", action="append", required=True, metavar="KIND=GLOB", help="two or more; the last is general"
    )
    p.add_argument("--model", help="a Hugging Face directory to anneal; left out: one is trained in place")
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--rates", type=lambda t: [float(x) for x in t.split(",")], default="1e-3,3e-3,1e-2,3e-2")
    budget = {"base_tokens": 1_000_000, "probe_tokens": 50_000, "stage_tokens": 100_000}
    whole = {"batch": 8, "length": 128, "vocab": 1024, "embed": 64, "heads": 4, "kv_heads": 2, "mlp": 176, "layers": 3}
    for name, value in {**budget, **whole, "documents": 60, "sample": 2000}.items():
        p.add_argument(f"--{name}", type=int, default=value)
    for name, number in {"held_out": 0.1, "base_share": 0.7, "base_rate": 5e-3}.items():
        p.add_argument(f"--{name}", type=float, default=number)
    a = p.parse_args()
    a.kinds = dict(text.split("=", 1) for text in a.text)
    if len(a.kinds) < 2:
        p.error("--text: give two kinds or more, each once")
    a.stage_tokens = -(-a.stage_tokens // (a.batch * a.length)) * a.batch * a.length  # whole steps
    return a


def main() -> int:
    """Runs what is not done, prints the tables, draws the picture."""
    a = arguments()
    prepare(a)
    for seed in range(a.seeds):
        anneal(a, seed)
    seeds = [measured(a, seed) for seed in range(a.seeds)]
    (a.folder / "anneal.json").write_text(json.dumps(seeds, indent=1) + "\n")
    draw(a, seeds, a.folder / "anneal.png")
    print(report(a, seeds))
    print(a.folder / "anneal.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
