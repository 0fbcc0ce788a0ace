"""Records of evaluation sets from local files, whatever the form: JSON lines (also gz), or a folder of CSV files."""

import csv
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError

EvaluationRecord = dict[str, Any]
LETTERS = "ABCDEFGHIJ"
SUFFIXES = (".jsonl", ".jsonl.gz")


def find(data: Path, names: Sequence[str], folder_of: str = "csv", called: str = "") -> Path:
    """Returns the first of `names` that is in `data`, as NAME.jsonl, NAME.jsonl.gz or a folder of CSV files (or of
    others, by their suffix); `called` is what messages call `data`, where that is more than its path.

    Raises:
        JaxptError: there is none; it names what was looked for.
    """
    if not data.is_dir():
        raise JaxptError(
            f"{called or data} is not a folder; it holds the files of evaluation sets (docs/evaluation.md)"
        )
    for name in names:
        for suffix in SUFFIXES:
            if (data / f"{name}{suffix}").is_file():
                return data / f"{name}{suffix}"
        if (data / name).is_dir() and any((data / name).glob(f"*.{folder_of}")):
            return data / name
    looked = ", ".join(f"{name}.jsonl[.gz]" for name in names)
    raise JaxptError(f"{called or data} has none of {looked}, nor a folder of {folder_of.upper()} files of such a name")


def lookup(data: Path, names: Sequence[str], key: str, field: str, called: str = "") -> dict[str, str]:
    """Returns texts by name: of a file of JSON lines the `field` under each `key`, of a folder of NAME.txt the texts.

    `called` as for `find`.

    Raises:
        JaxptError: no such file, or a record without the two.
    """
    path = find(data, names, "txt", called)
    if path.is_dir():
        return {file.stem: file.read_text(encoding="utf-8") for file in sorted(path.glob("*.txt"))}
    out = {}
    for number, row in enumerate(_json_rows(path), 1):
        if not isinstance(row.get(key), str) or not isinstance(row.get(field), str):
            raise JaxptError(f"{path}, line {number}: no text under {key} and {field}")
        out[row[key]] = row[field]
    return out


def read(
    path: Path,
    split: str,
    between: Mapping[str, Sequence[int]] | None = None,
    as_json: Sequence[str] = (),
) -> list[EvaluationRecord]:
    """Returns the records of a file or folder; of a file that holds several splits those of `split`.

    Args:
        path: a file of JSON lines, or a folder of CSV files.
        split: records with another one in their field `split` are left out.
        between: fields with the smallest and the largest number that they may have.
        as_json: fields that become JSON text, as a table cannot hold what differs in its form from record to record.

    Raises:
        JaxptError: a line that is no record, named with its number; a record of an unknown form; no records.
    """
    rows = list(_csv_rows(path) if path.is_dir() else _json_rows(path))
    rows = [row for row in rows if row.get("split", split) == split]
    for field, (first, last) in (between or {}).items():
        rows = [row for row in rows if isinstance(row.get(field), int) and first <= row[field] <= last]
    if not rows:
        where = "".join(f", with {field} of {a} to {b}" for field, (a, b) in (between or {}).items())
        raise JaxptError(f"{path} has no records of the split {split}{where}")
    if as_json:
        texts = [{name: json.dumps(row.get(name), indent=4, ensure_ascii=False) for name in as_json} for row in rows]
        rows = [{**{k: v for k, v in row.items() if k != "orig"}, **text} for row, text in zip(rows, texts)]
    out = []
    for number, row in enumerate(rows):
        try:
            out.append(canonical(row))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise JaxptError(
                f"{path}, record {number} of {split}: its choices and the right one are in no form that is known "
                f"({type(error).__name__}: {error}); docs/evaluation.md shows one"
            ) from error
    return out


def _json_rows(path: Path) -> Iterator[EvaluationRecord]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise JaxptError(f"{path}, line {number}: not a JSON object")
                orig = row.get("orig")
                yield {**row, **orig} if isinstance(orig, dict) else row
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise JaxptError(f"{path} cannot be read as JSON lines: {error}") from error


def _csv_rows(path: Path) -> Iterator[EvaluationRecord]:
    """Files NAME.csv or NAME_SPLIT.csv, one per subject; a file without a header has question, A, B, C, D, answer."""
    for file in sorted(path.glob("*.csv")):
        subject = re.sub("_(dev|val|test)$", "", file.stem)
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.reader(lines))
        if not rows:
            continue
        names = [name.strip().lower() for name in rows[0]]
        known = {"a", "b", "c", "d"} <= set(names)
        head, body = (names, rows[1:]) if known else (["question", "a", "b", "c", "d", "answer"], rows)
        for number, row in enumerate(body, 2 if known else 1):
            if len(row) != len(head):
                raise JaxptError(f"{file}, row {number}: {len(row)} columns instead of {len(head)}")
            named = dict(zip(head, row))
            yield {
                "question": named.get("question", ""),
                "choices": [named[letter] for letter in "abcd"],
                "answer": named.get("answer", ""),
                "subject": subject,
            }


def canonical(row: EvaluationRecord) -> EvaluationRecord:
    """Returns a record with `context`, `question`, `choices` and `label` (the number of the right one), as far as it
    has such, from the names and forms that these sets are published with; its other fields stay."""
    out = dict(row)
    choices = row.get("choices", row.get("endings"))
    if isinstance(choices, dict):  # ARC: {"text": […], "label": ["A", …]}
        out["label"] = choices["label"].index(row["answerKey"])
        choices = choices["text"]
    elif isinstance(choices, list) and choices and isinstance(choices[0], dict):  # ARC: [{"text": …, "label": …}]
        out["label"] = [c["label"] for c in choices].index(row["answerKey"])
        choices = [c["text"] for c in choices]
    if "endings" in row and "ctx_a" in row:  # HellaSwag, as lm_eval makes it
        begun = row["ctx_a"] + " " + row["ctx_b"].capitalize()
        out["context"] = _without_brackets(row["activity_label"] + ": " + begun)
        choices = [_without_brackets(c) for c in row["endings"]]
    if isinstance(choices, list):
        out["choices"] = [str(c).removeprefix(" ") for c in choices]
    for name in ("label", "gold", "answer", "Answer"):
        if (number := _number(out.get(name), out.get("choices"))) is not None:
            out["label"] = number
            break
    for name, others in (("context", ("query",)), ("question", ("Question", "text"))):
        out.setdefault(name, next((row[o] for o in others if o in row), ""))
    return out


def _number(value: Any, choices: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(choices, list):
        return None
    if isinstance(value, str):
        value = value.strip()
        if len(value) == 1 and value in LETTERS:
            value = LETTERS.index(value)
        elif value.isdigit():
            value = int(value)
    return value if isinstance(value, int) and 0 <= value < len(choices) else None


def _without_brackets(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")
