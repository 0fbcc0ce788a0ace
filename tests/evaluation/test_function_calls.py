"""Function calls as text: read, judged as BFCL's own AST checker does, and scored by category."""

import copy
import gzip
import importlib
import json
import sys
import types
from unittest.mock import MagicMock

import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness import evaluating
from jaxpt.evaluation.harness.scorers.function_calls import FunctionCalls, matches, parse

CATEGORIES = ("simple_python", "multiple", "parallel", "parallel_multiple")


@pytest.fixture(scope="module")
def records(shared):
    with gzip.open(shared / "data/eval/bfcl_v4_simple_multiple_parallel.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    return [{**row, **row["orig"]} for row in rows]


@pytest.fixture(scope="module")
def theirs():
    """BFCL's own decoder and checker; what they import of clients of models, and do not use, is replaced."""
    pytest.importorskip("bfcl_eval", reason="needs bfcl-eval: pip install --no-deps bfcl-eval")
    with pytest.MonkeyPatch.context() as patch:
        models = types.ModuleType("bfcl_eval.constants.model_config")
        models.MODEL_CONFIG_MAPPING = {"m": types.SimpleNamespace(underscore_to_dot=False)}
        patch.setitem(sys.modules, "bfcl_eval.constants.model_config", models)
        for name in ("java_parser", "js_parser", "json_parser", "xml_parser"):
            patch.setitem(sys.modules, f"bfcl_eval.model_handler.parser.{name}", MagicMock())
        for name in ("tenacity", "dotenv", "tree_sitter", "overrides"):
            if importlib.util.find_spec(name) is None:
                patch.setitem(sys.modules, name, MagicMock())
        checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
        handler = importlib.import_module("bfcl_eval.model_handler.utils")
        formats = importlib.import_module("bfcl_eval.utils")
        python = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON

        def decode(text):
            try:
                return handler.default_decode_ast_prompting(text)
            except Exception:
                return None

        def valid(record, text):
            calls = decode(text)
            if record["ground_truth"] is None:
                return calls is None or formats.is_empty_output(calls)
            if calls is None or not formats.is_function_calling_format_output(calls):
                return False
            truth = copy.deepcopy(record["ground_truth"])
            try:
                return checker.ast_checker(record["function"], calls, truth, python, record["category"], "m")["valid"]
            except Exception:
                return False

        yield types.SimpleNamespace(decode=decode, valid=valid)


def ours(record, text):
    document = {name: json.dumps(record[name]) for name in ("function", "ground_truth")}
    return FunctionCalls().score(document, [text])["acc"] == 1.0


def gold(record):
    return FunctionCalls().gold({"ground_truth": json.dumps(record["ground_truth"])})


def written(calls):
    return "[" + ", ".join(f"{n}({', '.join(f'{k}={v!r}' for k, v in p.items())})" for n, p in calls) + "]"


def altered(calls, types_of):
    """Answers that differ from right ones in one thing each; most are wrong, all are to be judged alike."""
    (name, given), *rest = calls
    yield "other name", [(name + "x", given), *rest]
    yield "other dots", [(name.replace(".", "_"), given), *rest]
    yield "extra argument", [(name, {**given, "not_a_parameter": 1}), *rest]
    yield "one call more", [*calls, (name, given)]
    yield "one call less", rest
    yield "the other order", calls[::-1]
    for key, value in given.items():
        without = {k: v for k, v in given.items() if k != key}
        yield "an argument less", [(name, without), *rest]
        for other in (str(value), [value], (value,), {"a": value}, None, True, "a_name", [], "", 0, -1.5):
            yield f"{types_of.get(key)} {value!r} as {other!r}", [(name, {**given, key: other}), *rest]
        if isinstance(value, int) and not isinstance(value, bool):
            yield "float for int", [(name, {**given, key: float(value)}), *rest]
        if isinstance(value, float):
            yield "int for float", [(name, {**given, key: int(value)}), *rest]
        if isinstance(value, str):
            for text in (value.upper(), value.replace(" ", ""), value + ".", value + "x", value.replace(",", "-")):
                yield f"text {text!r}", [(name, {**given, key: text}), *rest]
        if isinstance(value, list):
            for some in (value[::-1], tuple(value), value[:-1], [*value, *value[:1]], [str(v).upper() for v in value]):
                yield f"list {some!r}", [(name, {**given, key: some}), *rest]
        if isinstance(value, dict):
            for field in value:
                left = {k: v for k, v in value.items() if k != field}
                yield "a field less", [(name, {**given, key: left}), *rest]
            yield "a field more", [(name, {**given, key: {**value, "more": 1}}), *rest]


def test_answers_are_judged_as_bfcl_does(records, theirs):
    """Gold answers, and planted ones: wrong type or name, argument missing or added, other order, spelling, nesting."""
    judged = {True: 0, False: 0}
    for category in CATEGORIES:
        some = [r for r in records if r["category"] == category]
        nested = [r for r in some if '"dict"' in json.dumps(r["function"][0]["parameters"]["properties"])]
        for record in [*some[::9], *nested[:8]]:
            right = parse(gold(record))
            described = {f["name"]: f["parameters"]["properties"] for f in record["function"]}
            types_of = {k: v["type"] for k, v in described[right[0][0]].items()}
            for what, calls in [("gold", right), *altered(right, types_of)]:
                text = written(calls)
                verdict = ours(record, text)
                assert verdict == theirs.valid(record, text), f"{record['id']}: {what}: {text}"
                judged[verdict] += 1
    assert judged[True] > 200
    assert judged[False] > 2000


def test_every_gold_answer_is_judged_as_bfcl_does(records, theirs):
    called = [r for r in records if r["ground_truth"] is not None]
    verdicts = [(ours(r, gold(r)), theirs.valid(r, gold(r))) for r in called]
    assert all(a == b for a, b in verdicts)
    assert sum(a for a, _ in verdicts) >= len(called) - 2


TEXTS = [
    "[f(a=1)]", "f(a=1)", "```[f(a=1)]```", "[f(a=1), g.h(b='x')]", "[a.b.c(x=[1, (2, 3)], y={'k': None})]", "[]", "",
    "I cannot do that.", "[f(a=1)", "f(a=1)]", "[f(1, b=2)]", "[f(a=-1.5)]", "[f(a=2 * 3 + 1)]", "[f(a=x)]", "[f]",
    "[f(a=g(1))]", "[f(a=g(b=1))]", "[f(a=x[0])]", "[f(a=...)]", "[f(a=True)]\n", "[f(a=1)] done", "[3]", "[f(a=1), 3]",
    "[f(a=lambda: 1)]", "f(a=1)\ng(b=2)", "[f(a={**b})]", "[f(a=b'x')]", "[f(a=f'{x}')]", "['f(a=1)']", "[f(a=1/0)]",
]  # fmt: skip


def test_texts_are_read_as_bfcl_does(theirs):
    for text in TEXTS:
        got, want = parse(text), theirs.decode(text)
        assert (None if got is None else [{n: p} for n, p in got]) == want, text


@pytest.mark.parametrize(
    "text",
    ["[f(a=__import__('os').system('x') + 1)]", "[f(a=9**9**9)]", "[f(a='x' * 10**9)]", "[" * 5000, "[f(a=not 1)]"],
)
def test_nothing_of_an_answer_is_executed_and_none_keeps_the_scorer_busy(text):
    assert parse(text) is None


AREA = {
    "name": "geometry.area",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "unit": {"type": "string"},
            "corners": {"type": "array", "items": {"type": "float"}},
            "point": {"type": "tuple", "items": {"type": "integer"}},
            "style": {"type": "dict"},
        },
        "required": ["base", "height"],
    },
}
TRUTH = {
    "geometry.area": {
        "base": [10],
        "height": [5.0],
        "unit": ["square meters", ""],
        "corners": [[1.0, 2.0], ""],
        "point": [[1, 2], ""],
        "style": [{"color": ["red", "dark red"], "width": [2, ""]}, ""],
    }
}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("[geometry.area(base=10, height=5.0)]", True),
        ("[geometry.area(height=5, base=10)]", True),  # an int for a float
        ("[geometry.area(base=10.0, height=5)]", False),  # a float for an int
        ("[geometry.area(base='10', height=5)]", False),
        ("[geometry.area(base=10)]", False),
        ("[geometry.area(base=10, height=5, depth=1)]", False),
        ("[area(base=10, height=5)]", False),
        ("[geometry_area(base=10, height=5)]", False),
        ("[geometry.area(base=10, height=5, unit='Square-Meters')]", True),
        ("[geometry.area(base=10, height=5, unit='feet')]", False),
        ("[geometry.area(base=10, height=5, corners=[1.0, 2.0])]", True),
        ("[geometry.area(base=10, height=5, corners=[2.0, 1.0])]", False),
        ("[geometry.area(base=10, height=5, point=(1, 2))]", True),
        ("[geometry.area(base=10, height=5, style={'color': 'Dark red'})]", True),
        ("[geometry.area(base=10, height=5, style={'color': 'red', 'width': 3})]", False),
        ("[geometry.area(base=10, height=5, style={'width': 2})]", False),
    ],
)
def test_calls_are_judged_by_type_and_value(text, right):
    assert matches(parse(text), [AREA], [TRUTH]) is right


def test_parallel_calls_may_come_in_any_order_but_each_counts_once():
    play = {"name": "play", "parameters": {"type": "dict", "properties": {"a": {"type": "string"}}, "required": ["a"]}}
    truth = [{"play": {"a": ["x"]}}, {"play": {"a": ["y"]}}]
    assert matches(parse("[play(a='y'), play(a='x')]"), [play], truth)
    assert not matches(parse("[play(a='x'), play(a='x')]"), [play], truth)
    assert not matches(parse("[play(a='x')]"), [play], truth)


def test_no_call_is_right_where_no_function_fits():
    none = {"ground_truth": None, "function": [AREA]}
    assert ours(none, "None of the functions can do that.")
    assert ours(none, "[]")
    assert not ours(none, "[geometry.area(base=10, height=5)]")


def test_each_category_is_a_task_whose_prompt_shows_functions_and_question(shared):
    (group,) = evaluating.find_tasks(["bfcl"], shared / "data/eval")
    tasks = {t.task_name: t for t in group.get_all_tasks()}
    assert set(tasks) == {f"bfcl_{c}" for c in (*CATEGORIES, "irrelevance")}
    task = tasks["bfcl_multiple"]
    document = task.eval_docs[0]
    prompt = task.fewshot_context(document, 0)
    assert prompt.endswith(f"]\n\nQuestion: {document['question'][0][0]['content']}\nCalls:")
    shown = json.loads(prompt.split("Functions, in JSON:\n")[1].split("\n\nQuestion:")[0])
    assert shown == json.loads(document["function"])  # a table would have filled in what other records have


def test_a_document_that_cannot_be_scored_is_named_before_the_model_is_asked(shared, tmp_path):
    row = {"category": "a", "question": [[{"role": "user", "content": "a"}]]}
    integer = {"name": "f", "parameters": {"properties": {"a": {"type": "intger"}}, "required": []}}
    for function, truth, words in (
        ([integer], [{"f": {"a": [1]}}], "document 0 cannot be scored: .*f: a has the type 'intger'.*integer"),
        ([integer], [{"g": {"a": [1]}}], "document 0 cannot be scored: KeyError: 'g'"),
    ):
        (tmp_path / "bfcl.jsonl").write_text(json.dumps({**row, "function": function, "ground_truth": truth}) + "\n")
        with pytest.raises(JaxptError, match=words):
            evaluating.find_tasks(["bfcl"], tmp_path)
