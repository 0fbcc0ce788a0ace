"""`jaxpt sft-probe` with real training: one table, resumed where it was killed, the same for the same seed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import api, cli
from jaxpt.commands import sft_probe as command
from jaxpt.config.file import load
from jaxpt.models import ModelConfig, flatten, uniform_layers
from jaxpt.models.init import init_params
from jaxpt.models.model import Model
from jaxpt.sweeps.sft_probe import chat_template_for, fitted, models_named, models_of_run
from jaxpt.tokenizers import train_sentencepiece
from jaxpt.training.config import RunConfig
from jaxpt.training.metrics import read
from tests.data.test_chat import SPECIAL, byte_level
from tests.evaluation.sums import write, write_program_task, write_task

ROOT = Path(__file__).resolve().parents[2]
SFT = f"{ROOT / 'configs' / 'sft_probe.py'}"
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"a": "number", "b": "number"}}}]
SHORT = ["--config.stages[0].duration=4 steps", "--config.stages[0].batch_size=8"]


def talk(n, tools=True):
    messages = [{"role": "user", "content": f"{n} and {n + 1}?"}]
    if tools:
        messages += [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": f"{n}"}]
    messages += [{"role": "assistant", "content": f"It is {2 * n + 1}."}]
    return {"messages": messages, **({"tools": TOOLS} if tools else {})}


@pytest.fixture(scope="module", autouse=True)
def without_a_list_of_packages():
    """Keeps lm_eval from running pip for each evaluation, which takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Conversations, a task, a bundle, and a run of six steps that keeps three checkpoints."""
    folder = tmp_path_factory.mktemp("probe")
    talks = [talk(n, n % 2 == 0) for n in range(60)]
    write(folder / "chats.jsonl", talks)
    texts = [f"{json.dumps(t)} Assistant: User:" for t in talks]
    words = train_sentencepiece(texts, folder / "tokenizer.model", 320)
    write(folder / "text.jsonl", texts)
    shape = {"vocab_size": 320, "embed": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "mlp": 32}
    config = ModelConfig(**shape, layers=uniform_layers(2), max_positions=256, tie_embeddings=True)
    api.save(Model(config, init_params(config, 0), words), folder / "bundle")
    rows = [{"question": f"{n}?", "choices": [" It is 3.", " No."], "label": n % 2} for n in range(4)]
    write_task(folder, rows)
    stage = {"duration": "6 steps", "batch_size": 8, "sequence_length": 64, "mixture": {"text": 1.0}}
    run = {
        "init_from": str(folder / "bundle"),
        "cache": str(folder / "cache"),
        "sources": {"text": {"path": str(folder / "text.jsonl")}},
        "stages": [stage],
        "optimizer": {"learning_rate": 1e-2},
        "checkpoint": {"every": "2 steps", "keep": 3},
        "metrics": {"every": 1, "tensorboard": False},
    }
    (folder / "run.json").write_text(json.dumps(run))
    assert cli.main(["train", f"--config={folder / 'run.json'}", f"--workdir={folder / 'run'}"]) == 0
    return folder


def flags(setting, output, *more):
    return [
        f"--data={setting / 'chats.jsonl'}",
        f"--tasks={setting / 'sums.yaml'}",
        f"--output_dir={output}",
        f"--config.cache={setting / 'cache'}",
        *SHORT,
        *more,
    ]


def probe(setting, output, *more):
    return cli.main(["sft-probe", *flags(setting, output, *more)])


@pytest.fixture(scope="module")
def whole(setting):
    """The probe of all kept checkpoints in one piece."""
    assert probe(setting, setting / "whole", f"--run={setting / 'run'}", "--keep") == 0
    return setting / "whole"


def results(output):
    return json.loads((output / "results.json").read_text())


@pytest.mark.slow
def test_each_kept_checkpoint_has_its_scores_before_and_after_and_they_are_correlated(setting, whole):
    got = results(whole)
    models = [m["model"] for m in got["models"]]
    assert [m["step"] for m in models] == [2, 4, 6]
    losses = [r["train/loss"] for r in read(setting / "run" / "metrics.jsonl")]
    assert [m["loss"] for m in models] == [pytest.approx(losses[step - 1]) for step in (2, 4, 6)]
    for m in got["models"]:
        assert (
            {s["metric"] for s in m["base"]}
            == {s["metric"] for s in m["after"]}
            == {"acc", "acc_norm", "bits_per_byte"}
        )
        bits = [next(s for s in m[name] if s["metric"] == "bits_per_byte") for name in ("base", "after")]
        assert bits[0]["value"] != bits[1]["value"]
        assert bits[0]["stderr"] > 0
        assert m["sft_loss"][1] < m["sft_loss"][0]  # on what the assistant wrote
    assert {c["of"] for c in got["correlations"]} == {"base, after", "loss, base", "loss, after"}
    assert all(c["points"] == 3 for c in got["correlations"])
    assert any(c["rho"] is not None for c in got["correlations"])
    assert (whole / "base_after.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_fine_tuned_weights_are_those_that_were_scored_and_the_base_is_as_it_was(setting, whole):
    base = flatten(api.load(setting / "run" / "checkpoints" / "2").params)
    tuned = flatten(api.load(whole / "models" / "2" / "sft").params)
    assert all(not np.array_equal(base[name], tuned[name]) for name in base if name.endswith("q"))
    lineage = json.loads((whole / "models" / "2" / "sft" / "lineage.json").read_text())
    assert lineage[-1]["steps"] == 2


@pytest.mark.slow
def test_what_is_finished_is_not_done_again_and_the_same_seed_gives_the_same_table(
    setting, whole, tmp_path, monkeypatch, capsys
):
    output, run, did = tmp_path / "p", f"--run={setting / 'run'}", []
    tune, scores = command._tune, command._scores

    def counted(name, call, stop):
        def made(*given):
            did.append(name)
            if len(did) == stop:
                raise KeyboardInterrupt
            return call(*given)

        return made

    for stop in (1, 3, 4, 0):  # in the first base scores, in the first fine-tune, in the second base scores
        did.clear()
        monkeypatch.setattr(command, "_tune", counted("tune", tune, stop))
        monkeypatch.setattr(command, "_scores", counted("score", scores, stop))
        assert probe(setting, output, run) == (130 if stop else 0)
        if stop == 3:
            assert did == ["score", "tune", "score"]
    assert did == ["tune", "score", "score", "tune", "score"]  # of the second and the third checkpoint
    for name in ("results.json", "results.md"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()
    out = capsys.readouterr().out
    assert re.search(r"^part 5 of 5: 6, scores after it; .* left$", out, re.MULTILINE)
    assert re.search(r"^model +tokens +training loss +SFT loss +task +metric", out, re.MULTILINE)
    assert not list(output.glob("models/*/sft/checkpoints"))  # the weights are gone, the record is not
    assert len(list(output.glob("models/*/sft/metrics.jsonl"))) == 3


@pytest.mark.slow
def test_prompts_are_conversations_where_asked_for_also_without_a_template_of_the_tokenizer(
    setting, whole, tmp_path, capsys
):
    more = [f"--model={setting / 'run' / 'checkpoints' / '2'}", "--chat_template=after"]
    more += ["--config.sources.chats.order_seed=1"]
    assert probe(setting, tmp_path / "p", *more) == 0
    assert "too few points" in capsys.readouterr().out
    assert (
        results(tmp_path / "p")["models"][0]["sft_loss"] != results(whole)["models"][0]["sft_loss"]
    )  # rows in another order
    folder = next((tmp_path / "p" / "models").iterdir())
    prompts = {}
    for name in ("base", "after"):
        (samples,) = (folder / name).glob("samples_*.jsonl")
        prompts[name] = json.loads(samples.read_text().splitlines()[0])["arguments"][0][0]
    assert prompts["base"] == "0?"
    assert prompts["after"] == "<s>User:\n0?\n\nAssistant:\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give --model=PATH, or --run=RUN"),
        (["--model=a", "--run=b"], "one of the two"),
        (["--run=nowhere"], "--run=nowhere has no finished checkpoint"),
        (["--model=nowhere"], "--model: nowhere"),
        (["--model=BUNDLE", "--tasks=gone.yaml"], "--tasks=gone.yaml: there is no such task file"),
        (["--model=BUNDLE", "--limit=0"], "--limit=0 must be at least 1"),
        (["--model=BUNDLE", "--tasks=hellaswag", "--eval_data=nowhere"], "--eval_data=nowhere is not a folder"),
        (["--model=BUNDLE", "--num_fewshot=3"], "3 of: add their file to --eval_data, or give --num_fewshot=0"),
        (["--model=BUNDLE", "--tasks=PROGRAMS"], "task programs runs what the model writes, which is not done here"),
        (["--model=BUNDLE", "--config.init_from=x"], "config.init_from=x: a fine-tune begins at each model"),
        (["--model=BUNDLE", "--config.stages[0].batch_size=900"], "too few for a batch of 900"),
        (["--model=BUNDLE", "--config.sources.chats.pack.kind=text"], "no source of the config has pack.kind=chat"),
        (["--model=BUNDLE,BUNDLE"], "twice"),
        (["--model=BUNDLE", "--dtype=fp16"], "compute.dtype is 'fp16'"),
        (["--model=BUNDLE", "--mesh=fsdp"], "--mesh=fsdp is not of the form"),
        (["--model=BUNDLE", "--data=gone"], "config.sources.chats.path: gone does not exist"),
    ],
)
def test_a_mistake_is_one_line_before_any_score(setting, tmp_path, capsys, more, message):
    programs = str(write_program_task(tmp_path))
    more = [m.replace("BUNDLE", str(setting / "bundle")).replace("PROGRAMS", programs) for m in more]
    assert probe(setting, tmp_path / "p", *more) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("p/models/*/base.json"))


def tuned(setting, folder, talks):
    """The parameters after four steps on one row of conversations, as configs/sft_probe.py has them."""
    folder.mkdir()
    write(folder / "chats.jsonl", talks)
    config = load(RunConfig, f"{SFT}:{folder / 'chats.jsonl'}", [f"--config.init_from={setting / 'bundle'}"])
    model = api.load(setting / "bundle")
    config, _ = fitted(config, model.config, model.tokenizer)
    (folder / "config.json").write_text(json.dumps(command.plain(config)))
    more = ["--config.stages[0].duration=2 steps", "--config.stages[0].batch_size=8", f"--config.cache={folder}"]
    more += ["--config.sources.chats.repeat=16"]  # the one row, in every place of two batches
    code = cli.main(["train", f"--config={folder / 'config.json'}", f"--workdir={folder / 'run'}", *more])
    assert code == 0
    return flatten(api.load(folder / "run").params)


def test_what_the_assistant_did_not_write_moves_no_parameter_where_nothing_is_learned_after_it(setting, tmp_path):
    closing = lambda word: [{"messages": [*talk(1)["messages"], {"role": "user", "content": word}], "tools": TOOLS}]  # noqa: E731
    one, other = (tuned(setting, tmp_path / word, closing(word)) for word in ("1 and 2?", "2 and 1?"))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_what_the_assistant_wrote_moves_them(setting, tmp_path):  # the proof above can fail
    said = lambda word: [{"messages": [*talk(1)["messages"], {"role": "assistant", "content": word}], "tools": TOOLS}]  # noqa: E731
    one, other = (tuned(setting, tmp_path / word, said(word)) for word in ("1 and 2?", "2 and 1?"))
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_a_tokenizer_that_knows_chatml_writes_it_and_one_with_a_template_its_own(tmp_path):
    assert chat_template_for(byte_level(tmp_path / "a")) == "chatml"
    assert "<|im_start|>" in SPECIAL
    assert chat_template_for(byte_level(tmp_path / "b", "{{ messages }}")) is None


def test_models_are_named_by_their_checkpoint_and_know_their_loss(setting):
    run = setting / "run"
    of_run = models_of_run(run)
    named = models_named([str(run / "checkpoints" / "4"), str(run), str(setting / "bundle")])
    assert [m.step for m in named] == [4, 6, None]
    assert [m.loss for m in named] == [of_run[1].loss, of_run[2].loss, None]
    assert named[0].digest == of_run[1].digest != of_run[2].digest
    assert len({m.name for m in named}) == 3


@pytest.mark.slow
def test_a_probe_that_is_killed_at_any_moment_goes_on_to_the_same_scores(setting, whole, tmp_path):
    output, kills, quiet = tmp_path / "p", 0, subprocess.DEVNULL
    more = flags(setting, output, f"--model={setting / 'run' / 'checkpoints' / '2'}")
    call = [sys.executable, "-m", "jaxpt", "sft-probe", *more]
    for sign in ("model.json", "base.json", "sft/checkpoints", "after/answers"):
        process = subprocess.Popen(call, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=quiet, stderr=quiet)
        until = time.monotonic() + 240
        while not list(output.glob(f"models/*/{sign}")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 4
    (base,) = output.glob("models/*/base.json")
    began = base.stat().st_mtime_ns
    assert cli.main(["sft-probe", *more]) == 0
    assert base.stat().st_mtime_ns == began  # not done again
    (got,), want = results(output)["models"], results(whole)["models"][0]
    assert {name: got[name] for name in ("base", "after", "sft_loss")} == {
        name: want[name] for name in ("base", "after", "sft_loss")
    }
