"""Each task that comes with jaxpt, on records in the form that its set is published with."""

import gzip
import itertools
import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

import lm_eval.tasks

from jaxpt import api
from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness import evaluating, local_tasks
from jaxpt.evaluation.harness.language_model import JaxptModel
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids

CEVAL = (
    "id,question,A,B,C,D,answer{more}\n"
    '0,"甲公司于年末购入设备，下列说法正确的是____。","增加资产",减少资产,增加负债,以上都不对,A{explained}\n'
    "1,下列属于流动资产的是____。,厂房,存货,专利权,商誉,B{explained}\n"
)


@pytest.fixture(scope="module")
def data(shared, tmp_path_factory):
    """The first records of the real sets, and a folder in C-Eval's format."""
    folder = tmp_path_factory.mktemp("evalsets")

    def some(source, name, keep):
        with gzip.open(shared / "data" / source, "rt", encoding="utf-8") as lines:
            chosen = [line for line in lines if keep(json.loads(line))]
        (folder / f"{name}.jsonl").write_text("".join(chosen), encoding="utf-8")

    def first(n):
        counted = itertools.count()
        return lambda row: next(counted) < n

    for name in ("arc_challenge_test", "arc_challenge_validation", "piqa_validation", "winogrande_validation"):
        some(f"eval_olmo/{name}.jsonl.gz", name, first(4))
    some("eval_olmo/gold_lambada_0shot.jsonl.gz", "lambada", first(4))
    some("eval/cmmlu_dev_and_test_part.jsonl.gz", "cmmlu", lambda row: row["subject"] in ("agronomy", "anatomy"))
    some("eval/bbh.jsonl.gz", "bbh", lambda row: row["task"] in ("navigate", "word_sorting"))
    some("eval/bbh_cot_prompts.jsonl.gz", "bbh_cot_prompts", lambda row: True)
    for split, more, explained in (("val", "", ""), ("dev", ",explanation", ",因为如此。")):
        (folder / "ceval" / split).mkdir(parents=True)
        for subject in ("accountant", "law"):
            rows = CEVAL.format(more=more, explained=explained)
            (folder / "ceval" / split / f"{subject}_{split}.csv").write_text(rows, encoding="utf-8-sig")
    return folder


@pytest.fixture(scope="module")
def model(shared):
    loaded = api.load(shared / "data/stories260K/hf")
    engine = InferenceEngine(loaded.config, loaded.params, decode=loaded.tokenizer.decode)
    return JaxptModel(engine, loaded.tokenizer, end_ids(loaded), name="stories")


def test_sets_are_read_as_they_are_published_and_scored(model, data):
    names = ["arc_challenge", "cmmlu", "ceval", "piqa", "winogrande", "lambada", "bbh"]
    results = evaluating.evaluate(model, evaluating.find_tasks(names, data), num_fewshot=0, limit=2)
    scored = {name: entry for name, entry in results["results"].items() if "_" not in name or name in names}
    assert set(names) <= set(results["results"])
    for name in ("arc_challenge", "cmmlu", "ceval", "piqa", "winogrande", "lambada"):
        assert 0 <= scored[name]["acc,none"] <= 1
        assert scored[name]["bits_per_byte,none"] > 0
    assert results["results"]["bbh"]["exact_match,get-answer"] >= 0
    assert results["results"]["bbh"]["bits_per_byte,none"] > 0
    law, agronomy = results["samples"]["ceval_law"][0], results["samples"]["cmmlu_agronomy"][0]
    assert law["arguments"][0][0].startswith("以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n甲公司")
    assert law["arguments"][0][0].endswith("\nA. 增加资产\nB. 减少资产\nC. 增加负债\nD. 以上都不对\n答案：")
    assert [s["target"] for s in results["samples"]["ceval_law"]] == [0, 1]
    assert agronomy["arguments"][0][0].startswith("以下是关于农学的单项选择题")
    wino = results["samples"]["winogrande"][0]
    assert [a[0] for a in wino["arguments"]] == wino["doc"]["contexts"]
    assert len({a[1] for a in wino["arguments"]}) == 1


def test_examples_come_from_the_dev_split(data):
    (group,) = evaluating.find_tasks(["ceval"], data)
    law = {t.task_name: t for t in group.get_all_tasks()}["ceval_law"]
    prompt = law.fewshot_context(law.eval_docs[0], 2)
    assert prompt.count("答案：") == 3
    assert "答案： A\n\n下列属于流动资产的是" in prompt


def test_worked_examples_are_those_that_lm_eval_has(data, shared, tmp_path):
    """The whole prompts of its 27 tasks, by its own task files."""
    (tmp_path / "bbh.jsonl.gz").symlink_to(shared / "data/eval/bbh.jsonl.gz")
    (tmp_path / "bbh_cot_prompts.jsonl").symlink_to(data / "bbh_cot_prompts.jsonl")
    (group,) = evaluating.find_tasks(["bbh_cot"], tmp_path)
    folder = Path(lm_eval.tasks.__file__).parent / "bbh" / "cot_fewshot"
    shared_keys = yaml.safe_load((folder / "_cot_fewshot_template_yaml").read_text())
    same = 0
    for task in group.get_all_tasks():
        keys = yaml.safe_load((folder / f"{task.task_name.removeprefix('bbh_cot_')}.yaml").read_text())
        left_out = ("include", "dataset_path", "dataset_name")
        config = {k: v for k, v in {**shared_keys, **keys}.items() if k not in left_out}
        document = dict(task.eval_docs[0])
        theirs = local_tasks.LocalTask(config, {"test": [document]})
        want = theirs.fewshot_context(document, 3)
        assert want.endswith(f"Q: {document['input']}\nA: Let's think step by step.\n")
        got = task.fewshot_context(document, 0)
        assert got.split() == want.split()
        same += got == want
    assert len(group.get_all_tasks()) == 27
    assert same == 26  # in one file lm_eval has put the chains of thought on lines of their own


def test_worked_examples_may_be_the_published_folder_and_none_may_be_missing(data, tmp_path):
    (tmp_path / "bbh.jsonl").symlink_to(data / "bbh.jsonl")
    with pytest.raises(JaxptError, match=r"has none of bbh_cot_prompts.jsonl\[.gz\], cot-prompts.jsonl"):
        evaluating.find_tasks(["bbh_cot"], tmp_path)
    (tmp_path / "cot-prompts").mkdir()
    for name in ("navigate", "word_sorting"):
        with pytest.raises(JaxptError, match=f"has none of|has task '{name}'"):
            evaluating.find_tasks(["bbh_cot"], tmp_path)
        (tmp_path / "cot-prompts" / f"{name}.txt").write_text(f"Do {name}.\n\nQ: a\nA: b\n")
    (group,) = evaluating.find_tasks(["bbh_cot"], tmp_path)
    task = group.get_all_tasks()[0]
    assert task.fewshot_context(task.eval_docs[0], 0).startswith("Do navigate.\n\nQ: a\nA: b\n\nQ: ")


def test_the_list_names_every_task_and_its_files(capsys):
    from jaxpt import cli

    assert cli.main(["eval", "--list"]) == 0
    out = capsys.readouterr().out
    for name, file in local_tasks.shipped().items():
        assert f"{name} " in out
        files = local_tasks.read_config(file)["files"].values()
        assert all((f if isinstance(f, str) else f[0]) in out for f in files)
