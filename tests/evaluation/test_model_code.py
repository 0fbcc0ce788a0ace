"""Programs that a model writes: run only when asked, in a limited process, and what pass@k says of them."""

import gzip
import itertools
import json
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="needs lm_eval: install jaxpt[eval]")

from jaxpt.errors import JaxptError
from jaxpt.evaluation.harness import evaluating, local_tasks
from jaxpt.evaluation.harness.programs import ProgramLimits, run_program
from jaxpt.evaluation.harness.scorers.pass_at_k import PassAtK, pass_at_k

GOOD = "def f(x):\n    return x + 1\n"
TESTS = "def check(candidate):\n    assert candidate(1) == 2\n\ncheck(f)\n"
QUICK = ProgramLimits(seconds=1.0)


def records(shared, name):
    with gzip.open(shared / f"data/eval/{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def scorer(name):
    task = local_tasks.read_config(local_tasks.shipped()[name])["scorer"]
    return PassAtK(program=task["program"], tests=task["tests"])


@pytest.mark.parametrize(("name", "answer", "some"), [("humaneval", "canonical_solution", 4), ("mbpp", "code", 20)])
def test_published_solutions_pass_and_broken_ones_fail(shared, name, answer, some):
    judge = scorer(name)
    documents = records(shared, name)[::some]
    whole = [(d, [d[answer]]) for d in documents]
    broken = [(d, [d[answer].replace("return", "return None and")]) for d in documents[::4] if "return" in d[answer]]
    judge.prepare(whole + broken, lambda: None)
    assert [d["task_id"] for d, a in whole if judge.score(d, a) != {"pass@1": 1.0}] == []
    assert len(broken) >= 9
    assert [d["task_id"] for d, a in broken if judge.score(d, a) != {"pass@1": 0.0}] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "answer"), [("humaneval", "canonical_solution"), ("mbpp", "code")])
def test_all_published_solutions_pass(shared, name, answer):
    judge = scorer(name)
    asked = [(d, [d[answer]]) for d in records(shared, name)]
    judge.prepare(asked, lambda: None)
    assert all(judge.score(d, a) == {"pass@1": 1.0} for d, a in asked)


CHEATS = {
    "wrong": ("def f(x):\n    return x\n", "AssertionError"),
    "no function": ("x = 1\n", "NameError"),
    "no Python": ("def f(x:\n", "SyntaxError"),
    "raises": ("raise ValueError('no')\n", "ValueError: no"),
    "exits": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "exits when tested": ("import sys\ndef f(x):\n    sys.exit(0)\n", "SystemExit"),
    "leaves at once": ("import os\nos._exit(0)\n", "ended before its tests had"),
    "says that it passed": ("import os\nprint('passed')\nprint('{\"why\": null}')\nos._exit(0)\n", "ended before"),
    "writes a verdict": (
        'import os\nfor n in range(3, 1024):\n    try:\n        os.write(n, b\'{"token": "a", "why": null}\\n\')\n'
        "    except OSError:\n        pass\n",
        "ended before its tests had",
    ),
    "brings its own check": (
        "def check(candidate):\n    pass\n\ndef f(x):\n    return x\n\n"
        "import builtins\nbuiltins.AssertionError = OSError\n",
        "AssertionError",
    ),
    "replaces what reports": (
        "import json, os, sys\njson.dumps = lambda *a: '{}'\nsys.exit = print\nos.write = print\n"
        "def f(x):\n    return x\n",
        "AssertionError",
    ),
    "starts a process": ("import subprocess\nsubprocess.run(['true'])\n" + GOOD, "subprocess.Popen is refused"),
    "forks": ("import os\nwhile True:\n    os.fork()\n", "PermissionError: os.fork is refused"),
    "reaches a network": ("import socket\nsocket.create_connection(('127.0.0.1', 9))\n" + GOOD, "is refused"),
    "takes all memory": ("x = bytearray(1 << 40)\n" + GOOD, "MemoryError"),
    "takes memory by and by": ("x = []\nwhile True:\n    x.append(bytearray(1 << 24))\n" + GOOD, "MemoryError"),
    "writes a large file": ("open('a', 'wb').write(b'a' * (1 << 22))\n" + GOOD, "File too large|ended before"),
    "reads what was asked": ("input()\n" + GOOD, "EOFError"),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_program_that_does_not_solve_the_problem_does_not_pass(name):
    program, why = CHEATS[name]
    said = run_program(program, TESTS, ProgramLimits(memory=1 << 28))
    assert said is not None
    assert any(part in said for part in why.split("|")), said


def test_a_program_that_solves_the_problem_passes():
    assert run_program(GOOD, TESTS) is None
    assert run_program("print('x' * 10_000_000)\n" + GOOD, TESTS) is None  # its output goes nowhere


@pytest.mark.parametrize(
    "program",
    [
        "while True:\n    pass\n",
        "import time\ntime.sleep(1000)\n",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass\n",
        "while True:\n    print('x' * 100_000)\n",
        "import signal\nfor s in set(signal.Signals) - {9, 19}:\n    signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    pass\n",
    ],
    ids=["loop", "sleep", "stubborn", "printing", "deaf"],
)
def test_a_program_that_does_not_end_is_ended(program):
    begun = time.monotonic()
    assert "longer than 1 s" in run_program(program, TESTS, QUICK)
    assert time.monotonic() - begun < 8


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads /proc")
def test_nothing_of_a_program_is_left_behind(monkeypatch, tmp_path):
    """Also where it gets round the refusals and forks: its group is killed, its folder removed."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    forks = (
        "import os, _posixsubprocess as p\nopen('left', 'w').write('a')\nr, w = os.pipe()\n"
        "n = p.fork_exec([b'/bin/sleep', b'600'], [b'/bin/sleep'], True, (w,), None, None, -1, -1, -1, -1, -1, -1, "
        "r, w, False, False, -1, None, None, None, -1, None, True)\n"
        f"open({str(tmp_path / 'number')!r}, 'w').write(str(n))\n"
    )

    def child(rest, limits=ProgramLimits()):  # noqa: B008
        said = run_program(forks + rest, TESTS, limits)
        if os.getuid():  # only of root processes are not limited
            pytest.skip(f"needs root, to whom the limit on processes does not apply: {said}")
        return int((tmp_path / "number").read_text())

    for rest, limits in ((GOOD, ProgramLimits()), ("while True:\n    pass\n", ProgramLimits(seconds=3.0))):
        number, end = child(rest, limits), time.monotonic() + 10  # what is killed takes a moment
        while _lives(number) and time.monotonic() < end:
            time.sleep(0.02)
        assert not _lives(number)
        assert not list((tmp_path / "temporary").iterdir())
    monkeypatch.setattr("jaxpt.evaluation.harness.programs.os.killpg", lambda *_: None)
    number = child(GOOD)
    time.sleep(0.2)
    assert _lives(number)  # without the kill it is left, which the assertion above notices
    os.kill(number, signal.SIGKILL)


def _lives(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_sees_an_empty_folder_and_an_empty_environment(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "a")
    program = "import os, sys\ndef f(x):\n    return os.listdir(), 'SECRET_KEY' in os.environ, sys.flags.isolated\n"
    assert run_program(program, "assert f(1) == ([], False, 1), f(1)") is None
    assert "SECRET_KEY" in os.environ


def test_pass_at_k_is_the_share_of_choices_that_hold_a_correct_program():
    """By counting all choices, and by the product that the paper's figure 3 computes."""
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                choices = list(itertools.combinations(range(n), k))
                counted = sum(any(i < c for i in choice) for choice in choices) / len(choices)
                product = 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))
                assert math.isclose(pass_at_k(n, c, k), counted, abs_tol=1e-12)
                assert math.isclose(pass_at_k(n, c, k), product, abs_tol=1e-12)
    naive = 1 - (1 - 2 / 5) ** 3  # the biased one differs, which this test would notice
    assert abs(pass_at_k(5, 2, 3) - naive) > 0.05


def test_answers_count_once_each():
    judge = PassAtK(program="{{answer}}", tests="{{test}}", n=4, k=(1, 2, 4))
    wrong = "def f(x):\n    return x\n"
    scores = judge.score({"test": TESTS}, [GOOD, wrong, wrong, wrong])
    assert scores == {"pass@1": 0.25, "pass@2": 0.5, "pass@4": 1.0}


@pytest.fixture
def code_task(tmp_path):
    """HumanEval as it is shipped, of two small problems, with few new tokens."""
    text = local_tasks.shipped()["humaneval"].read_text(encoding="utf-8")
    (tmp_path / "code.yaml").write_text(text.replace("max_gen_toks: 512", "max_gen_toks: 8"), encoding="utf-8")
    rows = [
        {"task_id": i, "prompt": "def f(x):\n", "canonical_solution": "    return x", "test": TESTS, "entry_point": "f"}
        for i in range(2)
    ]
    (tmp_path / "humaneval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def test_a_model_is_not_asked_for_programs_that_may_not_run(code_task):
    tasks = evaluating.find_tasks(["humaneval"], code_task)
    with pytest.raises(JaxptError, match="task humaneval runs the programs that the model writes; --run_model_code"):
        evaluating.evaluate(None, tasks)


class Recites:
    """A model that answers with what it is given."""

    def __init__(self, answers):
        from lm_eval.api.model import LM

        class Reciting(LM):
            name, truncated, max_length = "recites", 0, 100

            class engine:
                class compute:
                    dtype = "none"

            def continuation_length(self, continuation):
                return len(continuation)

            def loglikelihood(self, requests):
                return [(-8.0, False) for _ in requests]

            loglikelihood_rolling = None

            def generate_until(self, requests):
                return [answers[i % len(answers)] for i, _ in enumerate(requests)]

        self.model = Reciting()


def test_pass_at_1_is_the_share_of_documents_that_are_solved(code_task):
    tasks = evaluating.find_tasks([str(code_task / "code.yaml")], code_task)
    answers = ["    return x + 1\n", "    return x\n"]
    results = evaluating.evaluate(Recites(answers).model, tasks, run_model_code=True)
    assert results["results"]["humaneval"]["pass@1,none"] == 0.5
    assert [s["pass@1"] for s in results["samples"]["humaneval"]] == [1.0, 0.0]
    want = 8 / np.log(2) / len("    return x")  # what it says of every continuation
    np.testing.assert_allclose(results["results"]["humaneval"]["bits_per_byte,none"], want)
    assert evaluating.write(results, code_task / "out").is_file()
    elsewhere = evaluating.find_tasks([str(code_task / "code.yaml")], code_task)
    assert np.isnan(
        evaluating.evaluate(Recites(answers).model, elsewhere, run_model_code=True, judges=False)["results"][
            "humaneval"
        ]["pass@1,none"]
    )


def test_mbpp_is_asked_as_its_paper_does(shared):
    (task,) = evaluating.find_tasks(["mbpp"], shared / "data/eval")
    assert len(task.eval_docs) == 500
    assert [d["task_id"] for d in task.eval_docs][::499] == [11, 510]
    prompt = task.fewshot_context(task.eval_docs[0], 3)
    begun = "You are an expert Python programmer, and here is your task: Write a function to find the similar elements"
    assert prompt.startswith(begun)
    assert prompt.count("[BEGIN]") == 4
    assert prompt.count("[DONE]") == 3
    assert prompt.endswith(f"{task.eval_docs[0]['test_list'][2]}\n[BEGIN]\n")


@pytest.mark.parametrize(
    ("scorer", "words"),
    [
        ("{name: pass_at_kk}", "scorer.name is 'pass_at_kk', which is not a scorer.*pass_at_k"),
        ("{name: pass_at_k, kk: 3}", "kk"),
        ("{name: pass_at_k, k: [2]}", "each must be between 1 and n, which is 1"),
        ("{name: pass_at_k, memory_mib: 1}", "memory_mib at least 64"),
        (
            "{name: pass_at_k, program: '{{b}}', tests: ''}",
            "document 0 cannot be scored: UndefinedError: 'b' is undefined",
        ),
    ],
)
def test_a_scorer_that_cannot_be_is_named(tmp_path, scorer, words):
    text = "task: a\noutput_type: generate_until\nfiles: {test: a}\ntest_split: test\ndoc_to_text: a\n"
    (tmp_path / "a.yaml").write_text(f"{text}doc_to_target: a\nscorer: {scorer}\n")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(JaxptError, match=words):
        evaluating.find_tasks([str(tmp_path / "a.yaml")], None)
