"""Do the scores of checkpoints before and after a short fine-tune go together? A small run from random weights, probed.

A tokenizer and a model of about a million parameters are made from --text; each kept checkpoint is probed on tasks of
--eval_data and on function calls of conversations that are held out of the fine-tune: the log-probability of the right
call behind its conversation.

python -m benchmarks.claims.sft_probe --text='*/redpajama_*.jsonl.gz' --sft='sft/*.gz' --eval_data=DIR --folder=DIR
"""

import argparse
import json
from pathlib import Path

from data_tools import __main__ as data_tools
from jaxpt import cli, tokenizers
from jaxpt.data.documents import document_id, held_out
from jaxpt.data.text_files import list_files, read_documents
from jaxpt.tokenizers.chat import named_template, render

CALLS = """\
task: calls
files: {test: calls}
test_split: test
output_type: loglikelihood
doc_to_text: "{{context}}"
doc_to_target: "{{gold}}"
target_delimiter: ""
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def main() -> int:
    """Makes what is not there, probes, and prints the tables."""
    a = arguments()
    a.folder.mkdir(parents=True, exist_ok=True)
    model = a.folder / "tokenizer" / "tokenizer.model"
    if not model.is_file():
        texts = (str(d["text"]) for file in list_files(a.text) for d in read_documents(file))
        tokenizers.train_sentencepiece(texts, model, 2048)
    _do(data_tools.main, "chats", f"--input={a.sft}", f"--output={a.folder / 'all_chats'}", "--inside=orig")
    split(a.folder, a.share)
    run, every = a.folder / "run", max(a.steps // a.checkpoints, 1)
    flags = [f"--config={Path('configs/tiny.py').absolute()}:{a.text}", f"--workdir={run}"]
    flags += [f"--config.tokenizer={model.parent}", "--config.sources.text.repeat=4"]
    flags += [f"--config.stages[0].duration={a.steps} steps", f"--config.checkpoint.every={every} steps"]
    flags += [f"--config.checkpoint.keep={2 * a.checkpoints}", f"--config.optimizer.learning_rate={a.peak}"]
    _do(cli.main, "train", *flags)
    flags = [f"--run={run}", f"--data={a.folder / 'chats'}", f"--eval_data={a.folder / 'evalsets'}"]
    flags += [f"--tasks={a.tasks},{a.folder / 'calls.yaml'}", "--num_fewshot=0", f"--limit={a.limit}"]
    flags += [f"--output_dir={a.folder / 'probe'}", f"--config.stages[0].duration={a.sft_steps} steps"]
    flags += [f"--config.optimizer.learning_rate={a.rate}", "--config.stages[0].sequence_length=512"]
    (a.folder / "evalsets").mkdir(exist_ok=True)
    for file in [*Path(a.eval_data).glob("*.jsonl*"), a.folder / "calls.jsonl"]:
        if not (link := a.folder / "evalsets" / file.name).exists():
            link.symlink_to(file.absolute())
    return _do(cli.main, "sft-probe", *flags)


def split(folder: Path, share: float) -> None:
    """Writes the conversations to tune on, and a task of the calls in those that are held out."""
    kept, calls = [], []
    for file in list_files(str(folder / "all_chats")):
        for talk in read_documents(file, ("messages",)):
            line = json.dumps(talk, ensure_ascii=False, sort_keys=True)
            if not held_out(document_id(line), share):
                kept.append(line)
            elif talk.get("lang") == "en" and talk.get("tools"):
                calls += _calls(talk)
    (folder / "chats").mkdir(exist_ok=True)
    (folder / "chats" / "chats.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (folder / "calls.jsonl").write_text("".join(json.dumps(c, ensure_ascii=False) + "\n" for c in calls))
    (folder / "calls.yaml").write_text(CALLS)
    print(f"{len(kept):,} conversations to tune on, {len(calls):,} calls held out")


def _calls(talk: dict) -> list[dict]:
    """The first call of a conversation as a passage and its end, both as the template `plain` writes them."""
    values = {"tools": talk["tools"], "bos_token": "", "eos_token": ""}
    for i, message in enumerate(talk["messages"]):
        if message.get("tool_calls") and not message["content"]:
            before = render(named_template("plain"), talk["messages"][:i], {**values, "add_generation_prompt": True})
            whole = render(named_template("plain"), talk["messages"][: i + 1], values)
            return [{"context": before, "gold": whole.removeprefix(before).strip()}]
    return []


def _do(program, *arguments: str) -> int:
    code = program(list(arguments))
    if code:
        raise SystemExit(code)
    return code


def arguments() -> argparse.Namespace:
    """The command line; the defaults take about half an hour of two shared cores."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", required=True, help="glob of documents to train on")
    p.add_argument("--sft", required=True, help="glob of conversations, as records with `orig`")
    p.add_argument("--eval_data", required=True, help="folder with the files of evaluation sets")
    p.add_argument("--folder", type=Path, required=True, help="everything is kept here")
    p.add_argument("--steps", type=int, default=160, help="of the run, of 16 rows of 256 tokens")
    p.add_argument("--peak", type=float, default=1e-2, help="of the run's learning rate")
    p.add_argument("--checkpoints", type=int, default=8)
    p.add_argument("--sft_steps", type=int, default=12, help="of each fine-tune, of 16 rows of 512 tokens")
    p.add_argument("--rate", type=float, default=1e-3, help="its peak; a model this small takes a higher one")
    p.add_argument("--tasks", default="hellaswag,arc_easy,lambada")
    p.add_argument("--limit", type=int, default=100)
    p.add_argument("--share", type=float, default=0.15, help="of the conversations, held out")
    return p.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
