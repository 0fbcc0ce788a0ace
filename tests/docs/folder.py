"""The folder in which the documented commands run: every name that they read, with tiny data.

The quickstart is run once, as README says it, on less text and for fewer steps; tokenizer, packed sources, bundles and
runs are made of what it leaves.
"""

import gzip
import json
import os
import pydoc_data.topics
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import data_tools.__main__
from data_tools.classify.model import TRAIN, ZEROED_MEMORY
from jaxpt import api, cli, tokenizers
from jaxpt.commands import quickstart
from jaxpt.data import standard_library
from jaxpt.data.build import build
from jaxpt.data.documents import held_out
from jaxpt.models import ModelConfig, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.model import Model
from tests.docs.documented import ROOT

KINDS = {  # folders of records, and how many documents each has
    **dict.fromkeys(("raw", "web", "clean", "old", "new", "dedup", "wiki", "pages", "text", "labelled", "code"), 60),
    **{"math": 30, "zh": 30, "eval": 8, "books": 4},
}
SMALL_QUICKSTART = """
import importlib.util

spec = importlib.util.spec_from_file_location("whole", {whole!r})
whole = importlib.util.module_from_spec(spec)
spec.loader.exec_module(whole)


def get_config(folder):
    c = whole.get_config(folder)
    c.stages[0].update(duration="12 steps", batch_size=4)
    c.evaluations.bits_per_byte.max_documents = 4
    return c
"""
RUN_PY = """
from configs.tiny import get_config as tiny


def get_config():
    c = tiny("PACKED_SOURCE")
    c.checkpoint.every = "4 steps"
    return c
"""
MASKS_PY = """
from configs.tiny import get_config as tiny


def get_config():
    c = tiny("data/packed")
    c.stages[0].update(duration="2 steps", objective={"name": "shear", "target": {"layers": 3, "mlp": 64}})
    return c
"""
KINDS_PY = """
def get_config():
    stage = dict(duration="8k tokens", batch_size=8, sequence_length=64, mixture=dict(web=0.5, prose=0.5))
    return dict(
        model=dict(preset="tiny-1m", embed=32, vocab_size=2048, tie_embeddings=True),
        tokenizer="TOKENIZER",
        cache="packed_text",
        sources=dict(web=dict(path="text"), prose=dict(path="math")),
        stages=[stage],
        checkpoint=dict(every="100 steps", keep=1),
        evaluations=dict(bits_per_byte=dict(documents=dict(web="text/text-0.jsonl.gz"), max_documents=2)),
        metrics=dict(every=1, tensorboard=False),
    )
"""
MINE_PY = '''
from dataclasses import dataclass

from jaxpt.optim.schedules.constant import Constant


@dataclass(frozen=True)
class Steps(Constant):
    """A schedule of one's own."""
'''


def make(folder: Path) -> None:
    """Fills `folder`."""
    for name in ("configs", "docs", "launch"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "quiet.py").write_text(_module_of(ROOT / "docs" / "pipeline.md", "quiet.py"), encoding="utf-8")
    (folder / "run.py").write_text(RUN_PY)
    (folder / "masks.py").write_text(MASKS_PY)
    (folder / "kinds.py").write_text(KINDS_PY)
    _records(folder)
    _quickstart(folder)
    data = folder / "runs/quickstart/data"
    (folder / "TOKENIZER").symlink_to(data / "tokenizer")
    (folder / "T").symlink_to(data / "tokenizer")
    tokenizer = tokenizers.load(data / "tokenizer")
    _sources(folder, tokenizer)
    _models(folder, tokenizer)
    _evaluation_sets(folder)
    _conversations(folder)
    _classifiers(folder)


def _module_of(page: Path, name: str) -> str:
    """The code that a page shows as the file `name`, whole."""
    lines = page.read_text(encoding="utf-8").split(f"This is `{name}`, whole:")[1].splitlines()[2:]
    end = next(i for i, line in enumerate(lines) if line and not line.startswith("    "))
    return "\n".join(line[4:] for line in lines[:end]) + "\n"


def _prose() -> list[str]:
    """Paragraphs of Python's reference, in English sentences."""
    out = []
    for _, text in sorted(pydoc_data.topics.topics.items()):
        for paragraph in text.split("\n\n"):
            flat = re.sub(r"[*\"`|]+", "", " ".join(paragraph.split()))
            if flat.endswith(".") and len(flat.split()) >= 25 and not re.search(r"[{}<>=\[\]\\]|::|>>>", flat):
                out.append(flat)
    return sorted(set(out))


def _records(folder: Path) -> None:
    """Records with every field that a documented command reads."""
    rng, paragraphs = random.Random(0), _prose()
    for kind, count in KINDS.items():
        (folder / kind).mkdir()
        length = 400 if kind == "books" else 6
        for part in range(2):
            with gzip.open(folder / kind / f"{kind}-{part}.jsonl.gz", "wt", encoding="utf-8") as file:
                for n in range(part, count, 2):
                    record = _record(kind, n, rng.sample(paragraphs, min(length, len(paragraphs))))
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    page = "".join(f"<p>{p}</p>" for p in paragraphs[:20])
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body>{page}</body></html>".encode()
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\n"
    head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    (folder / "crawl").mkdir()
    (folder / "crawl/a.warc.gz").write_bytes(gzip.compress(head.encode() + http + b"\r\n\r\n"))
    large = [
        *("chinese/d2l_zh_md", "math/gsm8k_train", "math/aqua_rat_dev_test", "math/svamp_mawps_mathqa"),
        *("math/hendrycks_math_test", "code/repos", "noisy_web/redpajama_c4-rp_1", "sft/glaive_toolcall_en_demo"),
    ]
    for name in large:
        file = folder / "TEXT" / f"{name}.jsonl.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        texts = ["\n".join(rng.sample(paragraphs, 20)) for _ in range(100)]
        with gzip.open(file, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"id": f"{name}-{i}", "text": text}) + "\n" for i, text in enumerate(texts))


def _record(kind: str, n: int, paragraphs: list[str]) -> dict[str, object]:
    text = "\n\n".join(paragraphs)
    if kind == "zh":
        text = "".join(f"第{n}篇文章讨论第{i}个问题，作者认为这种方法在实践中并不总是有效。" for i in range(20))
    if kind == "code":
        text = f"import m{n + 1}\n\n\ndef f{n}(x):\n    return m{n + 1}.f{n + 1}(x) + {n}\n"
    if kind == "wiki":
        text += f"\n\nSee [the next](http://w.example/{n + 1})."
    label = ("good", "bad")[n % 2]
    if kind == "labelled" and label == "bad":
        text = " ".join(f"buy cheap pills now {n * i}" for i in range(60))
    if kind == "math":
        text = " ".join(f"Let x = {n + i}; then the square of x is {(n + i) ** 2}." for i in range(40))
    return {
        "id": f"{kind}-{n}",
        "text": text,
        "html": f"<html><body><article>{''.join(f'<p>{p}</p>' for p in paragraphs)}</article></body></html>",
        "source": "SOURCE",
        "label": label,
        "url": f"http://w.example/{n}",
        "repo": f"repo{n % 3}",
        "path": f"m{n}.py",
        "language": "en",
    }


def _quickstart(folder: Path) -> None:
    """README's first command, on a part of the standard library and for twelve steps."""
    small = folder / "small_quickstart.py"
    small.write_text(SMALL_QUICKSTART.format(whole=str(quickstart.CONFIG)))
    modules, write = standard_library._modules, standard_library.write
    quickstart.CONFIG = small
    few = lambda i, name: i % 25 == 0 or (i % 3 == 0 and held_out(name, standard_library.SHARE))  # noqa: E731
    standard_library._modules = lambda: [m for i, m in enumerate(modules()) if few(i, m[0])]
    standard_library.write = lambda text: write(text, problems=300)
    _do("jaxpt quickstart --workdir=runs/quickstart")


def _sources(folder: Path, tokenizer: tokenizers.Tokenizer) -> None:
    for name, length in {"PACKED_SOURCE": 256, "data/packed": 64, "data/held_out": 64, "packed/code": 256}.items():
        build(str(folder / "text"), folder / name, tokenizer, length)
    shutil.copytree(folder / "packed/code", folder / "packed/web")
    _do("jaxpt-data tokenize --input=text --output=tokens --tokenizer=TOKENIZER")
    _do("jaxpt-data run --config=configs/data/web.py:raw/*.jsonl.gz --workdir=data/web --config.tokenizer=TOKENIZER")


def _evaluation_sets(folder: Path) -> None:
    """Files of two sets, and the task of one's own that docs/evaluation.md shows."""
    (folder / "EVALSETS").mkdir()
    for name in ("hellaswag_validation", "arc_easy_test", "arc_easy_validation"):
        said = [f"The {n} small boats of the {n} children came home before the {n} bells rang" for n in range(4)]
        rows = [{"context": said[n], "choices": [" a", " b", " c", " d"], "label": n % 4} for n in range(4)]
        (folder / "EVALSETS" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    blocks = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").split("```")
    task = next(b for b in blocks if b.startswith("yaml\ntask: my_task\n"))
    (folder / "my_task.yaml").write_text(task.removeprefix("yaml\n"))
    questions = next(b for b in blocks if b.startswith("json\n")).removeprefix("json\n")
    (folder / "my_questions.jsonl").write_text(questions, encoding="utf-8")
    _do("jaxpt-data decontaminate --input=raw --eval=EVALSETS/*.jsonl --eval_fields=context --output=SEARCHED")


def _conversations(folder: Path) -> None:
    """Conversations with a call of a function, as they are published and as `jaxpt-data chats` writes them."""
    (folder / "sft").mkdir()
    call = json.dumps({"name": "lines", "arguments": {"path": "a.py"}})
    turns = [("human", "How long is a.py?"), ("function_call", call), ("observation", "12"), ("gpt", "Twelve lines.")]
    talk = {"tools": '[{"name": "lines"}]', "conversations": [{"from": name, "value": text} for name, text in turns]}
    with gzip.open(folder / "sft/talks.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({**talk, "system": f"Answer {n}."}) + "\n" for n in range(40))
    _do("jaxpt-data chats --input=sft/talks.jsonl.gz --output=CHATS")


def _models(folder: Path, tokenizer: tokenizers.Tokenizer) -> None:
    """Runs with checkpoints on the way (`runs/c`), without, and of mask training; a bundle of 32 narrow layers."""
    (folder / "code/mine.py").write_text(MINE_PY)
    _do("jaxpt train --config=run.py --workdir=runs/c")
    _do("jaxpt train --config=configs/tiny.py:PACKED_SOURCE --workdir=runs/a")
    _do("jaxpt train --config=masks.py --workdir=runs/masks")
    (folder / "RUN").symlink_to(folder / "runs/quickstart/run")
    _do("jaxpt distill-cache --teacher=RUN --source=packed/code")
    config = ModelConfig(
        vocab_size=2048, embed=64, heads=8, kv_heads=8, head_dim=8, mlp=128, layers=uniform_layers(32),
        tie_embeddings=True, max_positions=256,
    )  # fmt: skip
    api.save(Model(config, init_params(config, 0), tokenizer, ()), folder / "BUNDLE")
    _do("jaxpt export --from=BUNDLE --to=HF_DIR")


def _classifiers(folder: Path) -> None:
    """One of quality, and one of languages in fastText's own format."""
    _do("jaxpt-data classify --train=labelled/*.gz --recipe=quality --set=positive=good --model=quality.bin")
    labels, settings = folder / "labels.txt", {"dim": 4, "epoch": 1, "thread": 1, "verbose": 0}
    labels.write_text("__label__cmn_Hani 这 种 方法\n__label__eng_Latn the way of\n" * 500)
    call = [sys.executable, "-c", TRAIN, json.dumps(settings), str(labels), str(folder / "glotlid.bin")]
    subprocess.run(call, env={**os.environ, **ZEROED_MEMORY}, check=True)


def _do(command: str) -> None:
    program, *arguments = command.split()
    assert {"jaxpt": cli.main, "jaxpt-data": data_tools.__main__.main}[program](arguments) == 0, command
