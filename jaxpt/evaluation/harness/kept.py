"""Answers of a model, kept in a file as they come: an evaluation that was killed goes on where it was."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxpt.errors import JaxptError
from jaxpt.files.digests import canonical_digest


class KeptAnswers:
    """A file of JSON lines `{"key": …, "value": …}`, appended to; a last line that a kill cut off does not count."""

    def __init__(self, folder: Path | None, identity: dict[str, Any]):
        """Opens the file of this model in `folder`, which is made.

        Args:
            folder: None: answers are kept in memory only (of several processes, one writes).
            identity: what answers depend on besides the request: parameters, tokenizer, dtype, length.

        Raises:
            JaxptError: a line of the file, but the last, is no answer.
        """
        self.file = None if folder is None else folder / f"{canonical_digest(identity)[:16]}.jsonl"
        self.values: dict[str, Any] = {}
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if self.file.is_file():
            content = self.file.read_bytes()
            whole = content.rfind(b"\n") + 1
            for number, line in enumerate(content[:whole].splitlines(), 1):
                try:
                    entry = json.loads(line)
                    self.values[entry["key"]] = entry["value"]
                except (ValueError, KeyError, TypeError) as error:
                    raise JaxptError(
                        f"{self.file}, line {number}: not an answer that was kept; remove the line, or the file to "
                        f"compute all anew"
                    ) from error
        with self.file.open("ab") as out:
            out.truncate(whole)

    @staticmethod
    def key(kind: str, arguments: Sequence[Any]) -> str:
        """Returns what a request is kept under."""
        return canonical_digest([kind, *arguments])

    def get(self, key: str) -> Any | None:
        """Returns what is kept under `key`, None where nothing is."""
        return self.values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keeps an answer; it is in the file when this returns."""
        self.values[key] = value
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
