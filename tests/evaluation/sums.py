"""Text of sums that a tiny model learns in seconds, and a task that asks for such."""

import json
from pathlib import Path

TASK = """\
task: sums
files: {test: sums}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{label}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


def texts(start: int, count: int) -> list[str]:
    """Nine documents for each number from `start` on."""
    return [
        f"{a} plus {b} is {a + b}.\n{a} times {b} is {a * b}." for a in range(start, start + count) for b in range(9)
    ]


def write(path: Path, rows: list) -> Path:
    """Writes JSON lines, a text as a document."""
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_task(folder: Path, questions: list[dict]) -> Path:
    """Writes the task's file and its questions (question, choices, label) beside it; returns the first."""
    write(folder / "sums.jsonl", questions)
    (folder / "sums.yaml").write_text(TASK)
    return folder / "sums.yaml"


def write_program_task(folder: Path) -> Path:
    """Writes a task whose scorer runs what a model writes, with one document; returns its file."""
    write(folder / "programs.jsonl", [{"question": "def f():"}])
    head = "".join(TASK.replace("sums", "programs").splitlines(keepends=True)[:3])
    asked = 'output_type: generate_until\ndoc_to_text: "{{question}}"\ndoc_to_target: ""\n'
    (folder / "programs.yaml").write_text(f"{head}{asked}scorer: {{name: pass_at_k, program: a, tests: b}}\n")
    return folder / "programs.yaml"
