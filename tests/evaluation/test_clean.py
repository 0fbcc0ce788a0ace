"""Clean scores beside all: those that lm_eval gives for the clean documents alone, found surely or not at all."""

import hashlib
import json
import random
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from lm_eval.api.model import LM

from data_tools.commands import decontaminate
from jaxpt import cli
from jaxpt.commands import sft_probe
from jaxpt.data import contamination
from jaxpt.errors import JaxptError
from jaxpt.evaluation.downstream import Downstream
from jaxpt.evaluation.harness import clean, evaluating, measuring
from jaxpt.evaluation.option_names import key_names

rng = random.Random(1)
WORDS = sorted({"".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(2000)})
PLANTED = {
    "web": {"hellaswag": [1, 4], "mmlu": [0, 1, 2, 9], "gsm8k": [2]},
    "books": {"hellaswag": [4, 7], "lambada": [3]},
}


class Hashes(LM):
    """Answers that only the request decides; it counts them."""

    name, max_length, truncated, asked = "hashes", 100, 0, 0
    engine = SimpleNamespace(compute=SimpleNamespace(dtype="float32"))
    kept = SimpleNamespace(file=None)

    def __init__(self, salt=""):
        super().__init__()
        self.salt = salt

    def _number(self, request):
        self.asked += 1
        return int(hashlib.sha256(f"{self.salt}{request.args[:2]!r}".encode()).hexdigest()[:8], 16) / 16**8

    def continuation_length(self, text):
        return len(text)

    def loglikelihood(self, requests, **_):
        return [(-20 * self._number(r), self._number(r) > 0.5) for r in requests]

    def loglikelihood_rolling(self, requests, **_):
        return [-20 * self._number(r) for r in requests]

    def generate_until(self, requests, **_):
        return [f"so #### {int(3 * self._number(r))}" for r in requests]


def sentence(n=20):
    return " ".join(rng.sample(WORDS, n))


def rows_of_sets():
    """Records by file; MMLU has subjects of several sizes, one of which is held whole."""
    hellaswag = [{"context": sentence(), "choices": [f" {c}" for c in "wxyz"], "label": n % 4} for n in range(12)]
    subjects = ["birds"] * 3 + ["stars"] * 9 + ["trees"] * 4
    mmlu = [
        {"question": sentence(), "choices": list("wxyz"), "answer": n % 4, "subject": s} for n, s in enumerate(subjects)
    ]
    return {
        "hellaswag_validation": [{**r, "text": r["context"]} for r in hellaswag],
        "mmlu_test": [{**r, "text": r["question"]} for r in mmlu],
        "mmlu_dev": [{**r, "text": sentence()} for r in mmlu],
        "gsm8k_test": [{"question": (q := sentence()), "text": q, "answer": f"#### {n % 3}"} for n in range(8)],
        "lambada_test": [{"context": (c := sentence()), "text": c, "gold": " end"} for _ in range(9)],
    }


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


TASKS = ("hellaswag", "mmlu", "gsm8k", "lambada")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Evaluation sets, the same without what is planted, and what decontamination says of two sources."""
    folder = tmp_path_factory.mktemp("clean")
    files = rows_of_sets()
    write(folder / "sets", files)
    file_of = {
        "hellaswag": "hellaswag_validation",
        "mmlu": "mmlu_test",
        "gsm8k": "gsm8k_test",
        "lambada": "lambada_test",
    }
    left, documents = {name: list(rows) for name, rows in files.items()}, []
    for source, planted in PLANTED.items():
        for task, numbers in planted.items():
            for number in numbers:
                row = files[file_of[task]][number]
                documents.append({"source": source, "text": f"{sentence(60)} {row['text']} {sentence(60)}"})
                left[file_of[task]] = [r for r in left[file_of[task]] if r is not row]
    write(folder / "left", left)
    write(folder / "raw", {"documents": [*documents, {"source": "code", "text": sentence(80)}]})
    where = [f"--input={folder}/raw", f"--eval={folder}/sets/*.jsonl", f"--output={folder}/searched"]
    assert decontaminate.main(where) == 0
    return folder


def evaluate(folder, tasks=TASKS):
    return evaluating.evaluate(Hashes(), evaluating.find_tasks(tasks, folder), num_fewshot=0)


@pytest.fixture(scope="module")
def results(made):
    found = evaluate(made / "sets")
    assert clean.add_clean(found, [contamination.read(str(made / "searched"))]) == []
    return found


def scores(entry):
    return {k: v for k, v in entry.items() if "," in k}


def test_clean_scores_are_those_of_lm_eval_over_the_clean_documents_alone(made, results):
    alone = evaluate(made / "left")
    tasks, groups = results["clean"]["tasks"], results["clean"]["groups"]
    assert tasks["mmlu_birds"]["scores"] == {}  # all three are held
    assert "mmlu_birds" not in alone["results"]
    names = ["hellaswag", "mmlu_stars", "mmlu_trees", "gsm8k", "lambada"]
    for name in names:
        want = scores(alone["results"][name])
        assert tasks[name]["scores"] == pytest.approx(want, rel=1e-12), name
        assert tasks[name]["verdicts"]["clean"] == alone["n-samples"][name]["effective"]
    assert groups["mmlu"]["scores"] == pytest.approx(scores(alone["results"]["mmlu"]), rel=1e-12)
    assert groups["mmlu"]["verdicts"]["held"] == 4
    for name in ("hellaswag", "gsm8k", "lambada"):  # it can fail: over all documents they are others
        assert tasks[name]["scores"] != pytest.approx(scores(results["results"][name]), rel=1e-12)
    assert {"perplexity,none", "perplexity_stderr,none", "bits_per_byte,none"} <= tasks["lambada"]["scores"].keys()
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= tasks["gsm8k"]["scores"].keys()


def test_the_held_documents_are_those_that_were_planted_and_by_whom(results):
    tasks = results["clean"]["tasks"]
    assert (tasks["hellaswag"]["held"], tasks["hellaswag"]["sources"]) == ([1, 4, 7], {"books": 2, "web": 2})
    assert (tasks["mmlu_birds"]["held"], tasks["mmlu_stars"]["held"]) == ([0, 1, 2], [6])
    assert (tasks["gsm8k"]["held"], tasks["lambada"]["held"]) == ([2], [3])
    assert results["clean"]["groups"]["mmlu"]["sources"] == {"web": 4}
    lines = [" ".join(line.split()) for line in clean.tables(results).splitlines()]
    assert "hellaswag 12 9 3 0 0 books 2, web 2" in lines
    assert "searched: books (3 documents), code (1 documents), web (7 documents)" in lines
    value = results["results"]["hellaswag"]["acc,none"]
    assert any(line.startswith(f"hellaswag acc 12 {value:.4g}") and " 9 " in line for line in lines), lines


def test_written_results_are_scored_again_without_a_model(made, results, tmp_path, capsys):
    before = {k: v for k, v in results.items() if k != "clean"}
    evaluating.write(before, tmp_path)
    samples = {f: f.read_bytes() for f in tmp_path.glob("samples_*")}
    assert cli.main(["eval", f"--contaminated={made}/searched", f"--output={tmp_path}"]) == 0
    said = capsys.readouterr()
    written = json.loads(next(tmp_path.glob("results_*.json")).read_text())
    assert written["clean"] == json.loads(json.dumps(results["clean"]))
    assert written["results"] == json.loads(json.dumps(before["results"]))
    assert {f: f.read_bytes() for f in samples} == samples
    assert "hellaswag" in said.out
    assert "jaxpt eval:" not in said.err
    again = next(tmp_path.glob("results_*.json")).read_bytes()
    assert cli.main(["eval", f"--contaminated={made}/searched", f"--output={tmp_path}"]) == 0
    assert next(tmp_path.glob("results_*.json")).read_bytes() == again


@pytest.mark.slow
def test_the_command_scores_beside_all_and_asks_the_model_nothing_twice(made, shared, tmp_path, capsys):
    flags = ["eval", f"--model={shared}/data/stories260K/hf", "--tasks=hellaswag", f"--data={made}/sets"]
    flags += ["--num_fewshot=0", f"--output={tmp_path}"]
    assert cli.main(flags) == 0
    first = json.loads(next(tmp_path.glob("results_*.json")).read_text())
    capsys.readouterr()
    kept = next((tmp_path / "answers").iterdir()).read_bytes()
    assert cli.main([*flags, f"--contaminated={made}/searched"]) == 0
    assert next((tmp_path / "answers").iterdir()).read_bytes() == kept
    second = json.loads(max(tmp_path.glob("results_*.json")).read_text())
    assert second["results"] == first["results"]
    assert second["clean"]["tasks"]["hellaswag"]["verdicts"] == {
        "clean": 9,
        "held": 3,
        "not checked": 0,
        "not in the files": 0,
    }
    assert "held by" in capsys.readouterr().out


def found_with(made, tmp_path, sets, fields="text"):
    """What decontamination says with other evaluation files."""
    write(tmp_path / "other", sets)
    where = [f"--input={made}/raw", f"--eval={tmp_path}/other/*.jsonl", f"--output={tmp_path}/{fields}-other"]
    assert decontaminate.main([*where, f"--eval_fields={fields}"]) == 0
    return contamination.read(f"{tmp_path}/{fields}-other")


def test_another_version_of_a_set_is_no_clean_score_but_a_line(made, results, tmp_path):
    sets = {
        name: [json.loads(l) for l in (made / f"sets/{name}.jsonl").open()] for name in ("gsm8k_test", "lambada_test")
    }
    sets["gsm8k_test"] = [{**row, "text": row["text"] + " ?"} for row in sets["gsm8k_test"]]
    other = found_with(made, tmp_path, sets)
    mine = {k: v for k, v in results.items() if k != "clean"}
    lines = clean.add_clean(mine, [other])
    assert "gsm8k has no clean score: none of its 8 documents is in the files" in lines
    assert any(line.startswith("mmlu has no clean score") for line in lines)
    assert "scores" not in mine["clean"]["tasks"]["gsm8k"]
    assert "scores" in mine["clean"]["tasks"]["lambada"]
    assert [line.split()[0] for line in clean.tables(mine).splitlines() if line.startswith("gsm8k")][:1] == ["gsm8k"]


def test_documents_that_a_file_does_not_know_do_not_count_as_clean(made, results, tmp_path):
    rows = [json.loads(l) for l in (made / "sets/lambada_test.jsonl").open()]
    part = found_with(made, tmp_path, {"lambada_test": [*rows[:5], {"text": "too short"}]})
    mine = {k: v for k, v in results.items() if k != "clean"}
    lines = clean.add_clean(mine, [part])
    assert "lambada: 4 documents are not in the files; they do not count as clean" in lines
    entry = mine["clean"]["tasks"]["lambada"]
    assert entry["verdicts"] == {"clean": 4, "held": 1, "not checked": 0, "not in the files": 4}
    both = [part, contamination.read(str(made / "searched"))]
    assert clean.judge({0: {"text": "too short"}}, [part]).of == {0: "not checked"}
    assert clean.judge({0: rows[0], 1: rows[8]}, both).of == {0: "clean", 1: "not in the files"}
    silent = clean.judge({0: {"text": "else"}}, both)
    assert silent.silent == [f.name for f in both]
    assert not silent.matched


def test_what_matches_nothing_at_all_is_refused_before_the_model_is_loaded(made, tmp_path):
    wrong = found_with(made, tmp_path, {"arc": [{"body": sentence()}]}, fields="body")
    tasks = evaluating.find_tasks(["hellaswag", "mmlu"], made / "sets")
    with pytest.raises(
        JaxptError, match=r"no document of hellaswag, mmlu_.* is an item of arc \(1 items\).*no field body"
    ):
        clean.check(tasks, [wrong])
    clean.check(tasks, [wrong, contamination.read(str(made / "searched"))])
    flags = ["eval", "--model=NOTHING", "--tasks=hellaswag", f"--data={made}/sets", f"--contaminated={wrong.name}"]
    with pytest.raises(JaxptError, match="no document of hellaswag"):
        cli.main([*flags, "--debug"])
    with pytest.raises(JaxptError, match="give their folder by --output"):
        cli.main(["eval", f"--contaminated={wrong.name}", "--debug"])
    with pytest.raises(JaxptError, match="no results_DATE"):
        cli.main(["eval", f"--contaminated={wrong.name}", f"--output={tmp_path}", "--debug"])


def test_a_score_that_documents_records_do_not_give_is_left_out_and_said(made, results):
    mine = {k: v for k, v in results.items() if k != "clean"}
    mine["results"] = {**mine["results"], "hellaswag": {**mine["results"]["hellaswag"], "acc,none": 0.123}}
    lines = clean.add_clean(mine, [contamination.read(str(made / "searched"))])
    assert lines == ["hellaswag: acc has no clean score: it cannot be computed from the documents' records"]
    assert "acc,none" not in mine["clean"]["tasks"]["hellaswag"]["scores"]
    mine["results"] = {**mine["results"], "mmlu": {**mine["results"]["mmlu"], "acc,none": 0.123}}
    assert "mmlu: acc has no clean score: it is no mean over the group's tasks" in clean.add_clean(
        mine, [contamination.read(str(made / "searched"))]
    )


def test_a_group_whose_tasks_weigh_alike_stays_so(made, results):
    mine = {k: v for k, v in results.items() if k != "clean"}
    parts = [mine["results"][f"mmlu_{s}"]["acc,none"] for s in ("birds", "stars", "trees")]
    mine["results"] = {**mine["results"], "mmlu": {**mine["results"]["mmlu"], "acc,none": sum(parts) / 3}}
    clean.add_clean(mine, [contamination.read(str(made / "searched"))])
    kept = [mine["clean"]["tasks"][f"mmlu_{s}"]["scores"]["acc,none"] for s in ("stars", "trees")]
    assert mine["clean"]["groups"]["mmlu"]["scores"]["acc,none"] == pytest.approx(sum(kept) / 2)


def asked_of(made, *tasks, **options):
    options = {"contaminated": str(made / "searched"), **options}
    return Downstream(tasks=tasks, data=str(made / "sets"), num_fewshot=0, **options)


def test_a_checkpoint_of_a_run_gets_them_too(made, results, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "laid_out", lambda *given, **options: Hashes())
    asked = asked_of(made, "hellaswag", "mmlu")
    values = measuring.measure(asked, None, tmp_path, "8")
    want = {f"clean/hellaswag/{m}": results["clean"]["tasks"]["hellaswag"]["scores"][f"{m},none"] for m in ("acc",)}
    want |= {"clean/mmlu/acc": results["clean"]["groups"]["mmlu"]["scores"]["acc,none"]}
    assert {name: values[name] for name in want} == pytest.approx(want)
    assert values["hellaswag/acc"] == results["results"]["hellaswag"]["acc,none"] != want["clean/hellaswag/acc"]
    assert not [name for name in values if "mmlu_" in name]
    written = json.loads(next((tmp_path / "8").glob("results_*.json")).read_text())
    assert written["clean"]["tasks"]["hellaswag"]["held"] == [1, 4, 7]
    without = measuring.measure(asked_of(made, "hellaswag", "mmlu", contaminated=None), None, tmp_path, "9")
    assert without == {name: value for name, value in values.items() if not name.startswith("clean/")}


def test_the_best_may_be_by_a_clean_score_that_there_will_be(made, tmp_path):
    assert asked_of(made, "hellaswag", keep_best="clean/hellaswag/acc").best_by() == ("clean/hellaswag/acc", True)
    part = found_with(
        made, tmp_path, {"lambada_test": [json.loads(l) for l in (made / "sets/lambada_test.jsonl").open()]}
    )
    asked = asked_of(made, "hellaswag", "lambada", keep_best="clean/hellaswag/acc", contaminated=part.name)
    with pytest.raises(JaxptError, match="'clean/hellaswag/acc', which the tasks do not give"):
        asked.best_by()
    with pytest.raises(JaxptError, match=r"^config\.evaluations\.e\.contaminated: no document of hellaswag is an item"):
        asked_of(made, "hellaswag", contaminated=part.name).best_by(key_names("config.evaluations.e"))


def test_what_was_scored_without_is_scored_again_and_a_file_elsewhere_is_the_same(made, tmp_path):
    (tmp_path / "copy.json").write_bytes((made / "searched" / contamination.NAME).read_bytes())
    bare, here = asked_of(made, "hellaswag", contaminated=None), asked_of(made, "hellaswag")
    assert bare.asked == Downstream(tasks=("hellaswag",), num_fewshot=0).asked
    assert asked_of(made, "hellaswag", contaminated=str(tmp_path / "copy.json")).asked == here.asked != bare.asked


def test_two_models_are_compared_on_the_clean_documents_too(made, results, tmp_path, capsys):
    for name in ("", "b"):
        tasks = evaluating.find_tasks(TASKS, made / "sets")
        evaluating.write(evaluating.evaluate(Hashes(name), tasks, num_fewshot=0), tmp_path / f"{name}.eval")
    folders = f"--compare={tmp_path}/.eval,{tmp_path}/b.eval"
    assert cli.main(["eval", folders]) == 0
    assert "clean" not in capsys.readouterr().out
    assert cli.main(["eval", folders, f"--contaminated={made}/searched"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    whole, clean_row = (next(r for r in rows if r[:2] == ["hellaswag", name]) for name in ("acc", "acc,"))
    assert whole[2:4] == ["12", f"{results['results']['hellaswag']['acc,none']:.4g}"]
    want = results["clean"]["tasks"]["hellaswag"]["scores"]["acc,none"]
    assert clean_row[2:5] == ["clean", "9", f"{want:.4g}"]
    part = found_with(
        made, tmp_path, {"lambada_test": [json.loads(l) for l in (made / "sets/lambada_test.jsonl").open()]}
    )
    assert cli.main(["eval", folders, f"--contaminated={part.name}"]) == 0
    said = capsys.readouterr()
    assert "hellaswag has no clean score: none of its documents is in the files" in said.err
    assert "acc, clean" in said.out  # of lambada
    wrong = found_with(made, tmp_path, {"arc": [{"body": sentence()}]}, fields="body")
    assert cli.main(["eval", folders, f"--contaminated={wrong.name}"]) == 1
    assert "--contaminated: no document of the tasks of" in capsys.readouterr().err


def test_a_probe_has_them_in_its_table(made, results, tmp_path, monkeypatch):
    monkeypatch.setattr(sft_probe, "open_model", lambda *given, **options: Hashes())
    args = SimpleNamespace(tasks="hellaswag,mmlu", eval_data=str(made / "sets"), num_fewshot=0, limit=None, system=None)
    args.dtype, args.mesh, args.max_length, args.batch_tokens, args.seed = "float32", "", None, None, 1234
    args.contaminated = str(made / "searched")
    files = sft_probe._contaminated(args, sft_probe._tasks(args))
    scores = {(s["task"], s["metric"]): s for s in sft_probe._scores(args, files, "m", tmp_path, None)["scores"]}
    want = results["clean"]["tasks"]["hellaswag"]["scores"]["acc,none"]
    assert (scores["hellaswag", "acc, clean"]["value"], scores["hellaswag", "acc, clean"]["documents"]) == (want, 9)
    assert (scores["hellaswag", "acc"]["documents"], scores["mmlu", "acc"]["documents"]) == (12, 16)
    assert scores["mmlu", "acc, clean"]["documents"] == 12
    assert not [name for name, _ in scores if name.startswith("mmlu_")]
    bare = sft_probe._scores(args, [], "m", tmp_path, None)["scores"]
    assert bare == [s for s in scores.values() if "clean" not in s["metric"]]
