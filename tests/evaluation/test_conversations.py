"""Prompts written as conversations, against lm_eval's own Hugging Face backend with the same template."""

import json
import shutil

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import api, cli
from jaxpt.evaluation.harness import evaluating
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids

TURNS = (
    "{% for m in messages %}[{{ m['role'] }}]: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]:{% endif %}"
)
TEMPLATES = {"with BOS": "{{ bos_token }}" + TURNS, "without BOS": TURNS}
SETTINGS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions with choices and examples, and questions whose answers are generated."""
    folder = tmp_path_factory.mktemp("evalsets")
    rows = [
        {"question": f"What did {name} see?", "choices": ["a dog", "a big tree", "a cat"], "label": n % 3}
        for n, name in enumerate(("Lily", "Tom", "Sam", "Mia"))
    ]
    gsm = [{"question": f"{r['question']} How many?", "answer": f"It is {n}. #### {n}"} for n, r in enumerate(rows)]
    sets = {"arc_easy_test": rows[:2], "arc_easy_validation": rows[2:], "gsm8k_test": gsm[:2], "gsm8k_train": gsm[2:]}
    for name, some in sets.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    short = (evaluating.shipped()["gsm8k"].read_text(encoding="utf-8")).replace(
        "do_sample: false", "do_sample: false\n  max_gen_toks: 24"
    )
    (folder / "short.yaml").write_text(short, encoding="utf-8")
    return folder


def with_template(shared, folder, template):
    """Stories260K with a chat template; its tokenizer is a SentencePiece file of a class, without `legacy`."""
    shutil.copytree(shared / "data/stories260K/hf", folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    (folder / "tokenizer_config.json").write_text(json.dumps({**SETTINGS, "add_bos_token": True}))
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_written_and_scored_as_with_the_hugging_face_backend(shared, data, tmp_path, name):
    for needed in ("torch", "transformers", "accelerate"):
        pytest.importorskip(needed)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    folder = with_template(shared, tmp_path / "model", TEMPLATES[name])
    loaded = api.load(folder)
    engine = InferenceEngine(loaded.config, loaded.params, decode=loaded.tokenizer.decode)
    ours = JaxptModel(engine, loaded.tokenizer, end_ids(loaded), name="stories")
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4, add_bos_token=True)
    tasks = lambda: evaluating.find_tasks(["arc_easy", str(data / "short.yaml")], data)  # noqa: E731
    prompts = {}
    for multiturn, system in ((False, None), (True, "You answer in one word.")):
        options = {"system_instruction": system, "fewshot_as_multiturn": multiturn}
        got = evaluating.evaluate(ours, tasks(), num_fewshot=2, chat_template=True, **options)
        want = lm_eval.simple_evaluate(
            theirs,
            tasks=tasks(),
            num_fewshot=2,
            apply_chat_template=True,
            fewshot_random_seed=1234,
            torch_random_seed=None,
            bootstrap_iters=0,
            task_manager=lm_eval.tasks.TaskManager(include_defaults=False),
            **options,
        )
        compared = 0
        for task, samples in want["samples"].items():
            for a, b in zip(got["samples"][task], samples, strict=True):
                assert [x[0] for x in a["arguments"]] == [x[0] for x in b["arguments"]]
                assert a["arguments"][0][1] == b["arguments"][0][1]
                for (x,), (y,) in zip(a["resps"], b["resps"], strict=True):
                    compared += 1
                    if isinstance(y, str):
                        assert x == y
                    else:
                        assert abs(x[0] - y[0]) < 1e-3
        assert compared >= 2 * 3 + 2 * 2
        prompts[multiturn] = got["samples"]["arc_easy"][0]["arguments"][0][0]
    assert prompts[False].count("[assistant]:") == 1
    assert prompts[True].count("[assistant]:") == 3  # two examples are turns
    assert "[system]: You answer in one word." in prompts[True]
    plain = evaluating.evaluate(ours, tasks(), num_fewshot=2)["samples"]["arc_easy"][0]
    assert plain["arguments"][0][0] != prompts[False]  # without the template the strings differ, which is noticed


def test_what_a_conversation_needs_is_named(shared, data, capsys):
    stories = shared / "data/stories260K/hf"
    flags = ["eval", f"--model={stories}", "--tasks=arc_easy", f"--data={data}"]
    assert cli.main([*flags, "--chat_template"]) == 1
    assert "has no chat template" in capsys.readouterr().err
    assert cli.main([*flags, "--fewshot_as_multiturn"]) == 1
    assert "add --chat_template" in capsys.readouterr().err
