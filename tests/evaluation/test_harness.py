"""Tasks of lm_eval through jaxpt's engine: as its own Hugging Face backend, from local files, kept and compared."""

import json

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt import api, cli
from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness import evaluating, local_tasks, records
from jaxpt.evaluation.harness.comparing import compare, flipped, read_samples
from jaxpt.evaluation.harness.kept import KeptAnswers
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids

NAMES = ("Lily", "Tom", "Sam", "Mia", "Ben", "Sue")
THINGS = ("ball", "dog", "tree", "boat", "cake", "hat")


def choices(n):
    return [f"{name} was very happy to see the big red {THINGS[n % 6]}." for name in NAMES[:4]]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Small sets in the forms that the real ones are published with."""
    folder = tmp_path_factory.mktemp("evalsets")

    def write(name, rows):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

    stories = [f"One day, {name} went to the park with a {thing}." for name in NAMES for thing in THINGS]
    write(
        "hellaswag_validation",
        [{"context": s, "choices": [f" {c}" for c in choices(n)], "label": n % 4} for n, s in enumerate(stories[:10])],
    )
    arc = [
        {
            "question": f"What did {NAMES[n % 6]} see?",
            "choices": {"text": [f"a {t}" for t in THINGS[:4]], "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(12)
    ]
    write("arc_easy_test", arc[:6])
    write("arc_easy_validation", arc[6:])
    write(
        "gsm8k_test",
        [{"question": f"{s} How many?", "answer": f"It is {n}. #### {n}"} for n, s in enumerate(stories[:2])],
    )
    write("lambada_test", [{"context": s, "gold": " She"} for s in stories[:5]])
    for split, count in (("dev", 5), ("test", 4)):
        (folder / "mmlu" / split).mkdir(parents=True)
        for subject in ("birds", "stars"):
            rows = [f'"{s} Why?",a,b,"c, d",e,{"ABCD"[n % 4]}' for n, s in enumerate(stories[:count])]
            (folder / "mmlu" / split / f"{subject}_{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def stories(shared):
    return shared / "data/stories260K/hf"


@pytest.fixture(scope="module")
def model(stories):
    loaded = api.load(stories)
    engine = InferenceEngine(loaded.config, loaded.params, decode=loaded.tokenizer.decode)
    return JaxptModel(engine, loaded.tokenizer, end_ids(loaded), name="stories")


TASKS = ("hellaswag", "arc_easy", "mmlu", "gsm8k", "lambada")


@pytest.mark.slow
@pytest.mark.parity
def test_documents_score_as_with_the_hugging_face_backend(model, stories, data):
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(stories), dtype="float32", device="cpu", batch_size=4, add_bos_token=True)
    shots = {"hellaswag": 0, "arc_easy": 2, "mmlu": 3, "gsm8k": 0, "lambada": 0}
    count = 0
    for name in TASKS:
        got = evaluating.evaluate(model, evaluating.find_tasks([name], data), num_fewshot=shots[name])
        want = lm_eval.simple_evaluate(
            theirs,
            tasks=evaluating.find_tasks([name], data),
            num_fewshot=shots[name],
            torch_random_seed=None,
            bootstrap_iters=0,
        )
        assert got["samples"].keys() == want["samples"].keys()
        for task, samples in want["samples"].items():
            for ours, their in zip(got["samples"][task], samples):
                assert ours["prompt_hash"] == their["prompt_hash"]
                for (a,), (b,) in zip(ours["resps"], their["resps"]):
                    count += 1
                    if isinstance(b, str):
                        assert a == b
                    else:
                        assert abs(a[0] - b[0]) < 1e-3
                        assert a[1] == b[1]
            for metric, value in want["results"][task].items():
                if metric.startswith(("acc", "exact_match")) and "stderr" not in metric:
                    assert got["results"][task][metric] == value
    assert count > 100


@pytest.mark.parity
def test_a_rolling_loglikelihood_is_that_of_the_hugging_face_backend(model, stories):
    pytest.importorskip("accelerate")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    texts = ["Once upon a time there was a dog.", "Lily saw a ball. " * 40, ""]
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    theirs = HFLM(
        pretrained=str(stories), dtype="float32", device="cpu", batch_size=1, add_bos_token=False, max_length=64
    )
    theirs = theirs.loglikelihood_rolling(requests[:2])
    short = JaxptModel(model.engine, model.words, (), max_length=64)
    short.encode = lambda string, bos: tuple(model.words.encode_prompt(string, False))
    np.testing.assert_allclose(short.loglikelihood_rolling(requests), [*theirs, 0.0], rtol=1e-5)


def test_bits_per_byte_stand_beside_accuracies_and_groups_have_their_mean(model, data):
    results = evaluating.evaluate(model, evaluating.find_tasks(["hellaswag", "mmlu"], data), num_fewshot=0)
    samples = results["samples"]["hellaswag"]
    by_hand = [
        -s["resps"][s["target"]][0][0] / np.log(2) / len(s["arguments"][s["target"]][1].encode()) for s in samples
    ]
    entry = results["results"]["hellaswag"]
    np.testing.assert_allclose(entry["bits_per_byte,none"], np.mean(by_hand))
    np.testing.assert_allclose(entry["bits_per_byte_stderr,none"], np.std(by_hand, ddof=1) / np.sqrt(len(by_hand)))
    members = [results["results"][f"mmlu_{s}"]["bits_per_byte,none"] for s in ("birds", "stars")]
    np.testing.assert_allclose(results["results"]["mmlu"]["bits_per_byte,none"], np.mean(members))
    assert "about birds." in results["samples"]["mmlu_birds"][0]["arguments"][0][0]


def test_bits_per_byte_of_the_right_answer_stand_beside_what_is_generated(model, data):
    results = evaluating.evaluate(model, evaluating.find_tasks(["gsm8k"], data), num_fewshot=0)
    by_hand = {}
    for s in results["samples"]["gsm8k"]:  # one for each of two filters
        context, answer = s["arguments"][0][0], f" {s['doc']['answer']}"
        ids, whole = model.tok_encode(context), model.tok_encode(context + answer)
        assert whole[: len(ids)] == ids
        (scored,) = model.engine.score([(ids, whole[len(ids) :])])
        by_hand[s["doc_id"]] = -scored.total / np.log(2) / len(answer.encode())
    entry = results["results"]["gsm8k"]
    assert len(by_hand) == 2
    np.testing.assert_allclose(entry["bits_per_byte,none"], np.mean(list(by_hand.values())), rtol=1e-5)
    want = np.std(list(by_hand.values()), ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(entry["bits_per_byte_stderr,none"], want, rtol=1e-4)
    assert "exact_match,strict-match" in entry
    assert any(row[3] == "bits_per_byte" for row in evaluating.rows(results))


@pytest.mark.slow
def test_answers_are_kept_and_a_killed_evaluation_goes_on(model, data, tmp_path, monkeypatch):
    tasks = lambda: evaluating.find_tasks(["hellaswag", "lambada"], data)  # noqa: E731
    whole = evaluating.evaluate(model, tasks(), num_fewshot=0, limit=3)
    kept = KeptAnswers(tmp_path, {"params": "a"})
    monkeypatch.setattr(model, "kept", kept)
    put, left = kept.put, [7]

    def killed(key, value):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        put(key, value)

    monkeypatch.setattr(kept, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluating.evaluate(model, tasks(), num_fewshot=0, limit=3)
    with kept.file.open("a") as file:
        file.write('{"key": "cut o')
    again = KeptAnswers(tmp_path, {"params": "a"})
    assert len(again.values) == 7
    monkeypatch.setattr(model, "kept", again)
    asked = []
    score = model.engine.score
    monkeypatch.setattr(model.engine, "score", lambda pairs, done: asked.extend(pairs) or score(pairs, done))
    on = evaluating.evaluate(model, tasks(), num_fewshot=0, limit=3)
    assert len(asked) == 3 * 4 + 3 - 7
    assert on["results"]["hellaswag"]["acc,none"] == whole["results"]["hellaswag"]["acc,none"]
    assert len(on["samples"]["lambada"]) == 3
    assert not KeptAnswers(tmp_path, {"params": "b"}).values  # of other weights nothing is kept


def test_a_context_beyond_the_model_is_cut_on_the_left_and_counted(model):
    short = JaxptModel(model.engine, model.words, (), max_length=16)
    before, after = short._pair("One day Lily saw a big red ball in the park. " * 3, " She was happy.")
    assert len(before) + len(after) == 17
    assert short.truncated == 1
    whole, _ = model._pair("One day Lily saw a big red ball in the park. " * 3, " She was happy.")
    assert before == whole[-len(before) :]
    with pytest.raises(JaxptError, match=r"more than the 16 that the model reads \(--max_length\)"):
        short._pair("a", "She was happy and so was he. " * 4)
    with pytest.raises(JaxptError, match="leaves no room for a prompt"):
        short._request("a", {"max_gen_toks": 16}, 0)


def test_a_prompt_beyond_the_model_is_cut_on_the_left_and_an_empty_one_is_bos(model):
    short = JaxptModel(model.engine, model.words, (), max_length=16)
    request, _ = short._request("One day Lily saw a big red ball in the park. " * 3, {"max_gen_toks": 6}, 0)
    assert len(request.prompt) == 10
    assert request.prompt == model.tok_encode("One day Lily saw a big red ball in the park. " * 3)[-10:]
    assert short.truncated == 1
    request, _ = short._request("", {"max_gen_toks": 6}, 0)
    assert request.prompt == [model.words.bos_id]


def test_code_keeps_the_space_that_a_sentencepiece_tokenizer_drops(model):
    before, whole = (model.words.encode_prompt(text, True) for text in ("One day", "One day   Lily  saw"))
    after = whole[len(before) :]
    assert whole[: len(before)] == before
    assert model._text(before, after, []) == "   Lily  saw"
    assert model._text((), after, []) == "  Lily  saw"  # what lm_eval's own backend gives too


def test_sampled_answers_have_seeds_of_their_own_and_are_kept(model, monkeypatch, tmp_path):
    from lm_eval.api.instance import Instance

    options = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8, "until": ["@"]}
    requests = [
        Instance("generate_until", {}, (text, options), 0) for text in ("One day", "One day", "Lily", "One day")
    ]
    monkeypatch.setattr(model, "kept", KeptAnswers(tmp_path, {}))
    texts = model.generate_until(requests)
    assert len({texts[0], texts[1], texts[3]}) == 3
    monkeypatch.setattr(model, "kept", KeptAnswers(None, {}))
    assert model.generate_until(requests[:2]) == texts[:2]  # whatever else is asked
    monkeypatch.setattr(model, "kept", KeptAnswers(tmp_path, {}))
    monkeypatch.setattr(model.engine, "generate", None)
    assert model.generate_until(requests) == texts


def test_a_line_that_is_no_answer_is_named(tmp_path):
    kept = KeptAnswers(tmp_path, {})
    kept.file.write_text('{"key": "a", "value": 1}\nnothing\n{"key": "b", "value": 1}\n')
    with pytest.raises(JaxptError, match="line 2: not an answer that was kept; remove the line"):
        KeptAnswers(tmp_path, {})


def test_an_empty_context_is_bos(model):
    before, after = model._pair("", "Lily")
    assert before == [model.words.bos_id]
    assert after == list(model.words.encode_prompt("Lily", False))
    with pytest.raises(JaxptError, match="has no tokens, it cannot be scored"):
        model._pair("Lily", "")


def test_tasks_that_cannot_be_are_named(data, tmp_path):
    def fails(name, words, folder=data):
        with pytest.raises(JaxptError, match=words):
            evaluating.find_tasks([str(name)], folder)

    fails("hellaswagg", "--tasks=hellaswagg is unknown.*hellaswag")
    fails("piqa", "has none of piqa_validation.jsonl")
    fails("hellaswag", "is not a folder", tmp_path / "none")
    fails(tmp_path / "no.yaml", "there is no such task file")
    broken = tmp_path / "broken.yaml"
    for text, words in (
        ("task: [", "cannot be read"),
        ("- a\n", "holds no mapping"),
        ("task: a\n", "lacks files, output_type"),
        ("task: a\noutput_type: multiple_choice\nfiles: x\n", "files is not a mapping"),
        (
            "task: a\noutput_type: multiple_choice\nfiles: {test: arc_easy_test}\ntest_split: tset\n",
            "test_split is 'tset'",
        ),
        ("task: a\noutput_type: choice\nfiles: {test: arc_easy_test}\ntest_split: test\n", "lm_eval refuses it"),
        ("task: a\noutput_type: choice\nfiles: {test: a}\nbetween: {test: [1, 2]}\n", "between is not of the form"),
        ("task: a\noutput_type: choice\nfiles: {test: a}\nbetween: {tset: {n: [1, 2]}}\n", "between names 'tset'"),
        ("task: a\noutput_type: choice\nfiles: {test: a}\nas_json: function\n", "as_json is not a list of fields"),
        ("task: a\noutput_type: choice\nfiles: {test: a}\nlookup: b\n", "lookup is not of the form {FIELD"),
        (
            "task: a\noutput_type: choice\nfiles: {test: arc_easy_test}\nlookup: {b: [c]}\n",
            "lookup.b is not of the form {files",
        ),
        (
            "task: a\noutput_type: choice\nfiles: {test: arc_easy_test}\nbetween: {test: {n: [1, 2]}}\n",
            "has no records of the split test, with n of 1 to 2",
        ),
    ):
        broken.write_text(text)
        fails(broken, words)
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(JaxptError, match="line 2: not a JSON object"):
        records.read(tmp_path / "bad.jsonl", "test")
    (tmp_path / "bad.jsonl").write_text('{"choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"}\n')
    with pytest.raises(JaxptError, match="record 0 of test: its choices and the right one are in no form"):
        records.read(tmp_path / "bad.jsonl", "test")


def test_a_task_that_runs_what_a_model_wrote_is_refused_before_the_model_is_asked(data, tmp_path):
    code = tmp_path / "code.yaml"
    text = local_tasks.shipped()["gsm8k"].read_text(encoding="utf-8")
    code.write_text(text + "unsafe_code: true\n", encoding="utf-8")
    tasks = evaluating.find_tasks([str(code)], data)
    with pytest.raises(JaxptError, match="task gsm8k of lm_eval runs what the model writes, without limits, which"):
        evaluating.evaluate(None, tasks, num_fewshot=0, run_model_code=True)


def test_every_shipped_task_file_says_what_it_is():
    for name, file in local_tasks.shipped().items():
        config = local_tasks.read_config(file)
        assert config["task"] == name
        assert config["about"]


@pytest.mark.parametrize(
    "row",
    [
        {"choices": [" a", " b", " c"], "label": 1},
        {"choices": ["a", "b", "c"], "answer": "B"},
        {"choices": ["a", "b", "c"], "answer": "1"},
        {"choices": ["a", "b", "c"], "gold": 1},
        {"choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"choices": [{"text": t, "label": l} for t, l in zip("abc", "ABC")], "answerKey": "B"},
    ],
)
def test_records_of_all_published_forms_become_one(row):
    got = records.canonical(row)
    assert (got["choices"], got["label"]) == (["a", "b", "c"], 1)


def test_differences_are_judged_on_the_same_documents():
    rng = np.random.default_rng(0)
    a = {"acc": {str(i): float(v) for i, v in enumerate(rng.random(200) < 0.5)}}
    same = {"acc": dict(a["acc"])}
    better = {"acc": {k: 1.0 if int(k) < 30 else v for k, v in a["acc"].items()} | {"only here": 0.0}}
    (none,), (some,) = compare(a, same), compare(a, better)
    assert (none.difference, none.p_value) == (0.0, 1.0)
    assert some.documents == 200
    assert some.difference > 0
    assert some.p_value < 0.001
    assert flipped(np.array([1.0, 1.0, 1.0]), 100, 0) == 2 / 8  # by hand: all three up, or all three down
    chance = [compare(a, {"acc": {k: float(rng.random() < 0.5) for k in a["acc"]}})[0].p_value for _ in range(40)]
    assert 0.2 < np.mean(np.array(chance) < 0.5) < 0.8  # p-values of equal models are spread evenly


@pytest.mark.slow
def test_the_command_writes_what_it_prints_and_compares(stories, data, tmp_path, capsys):
    for name, dtype in (("a", "float32"), ("b", "bfloat16")):
        flags = [f"--model={stories}", "--tasks=hellaswag,arc_easy", f"--data={data}", f"--output={tmp_path / name}"]
        assert cli.main(["eval", *flags, "--limit=4", "--num_fewshot=0", f"--dtype={dtype}"]) == 0
    out = capsys.readouterr().out
    (file,) = (tmp_path / "a").glob("results_*.json")
    results = json.loads(file.read_text())
    assert results["n-samples"]["arc_easy"]["effective"] == 4
    assert f"{results['results']['arc_easy']['acc,none']:.4g}" in out
    assert read_samples(tmp_path / "a").keys() == {"hellaswag", "arc_easy"}
    assert cli.main(["eval", f"--compare={tmp_path / 'a'},{tmp_path / 'b'}"]) == 0
    assert "B - A" in capsys.readouterr().out
    assert cli.main(["eval", "--list"]) == 0
    assert "hellaswag_validation" in capsys.readouterr().out
    assert cli.main(["eval", f"--model={stories}", "--tasks=nothing_such", f"--data={data}"]) == 1
    assert "jaxpt eval: --tasks=nothing_such is unknown" in capsys.readouterr().err
