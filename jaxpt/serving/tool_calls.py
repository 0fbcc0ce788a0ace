"""Calls of tools in what a model writes, in the form of most templates: `<tool_call>{JSON}</tool_call>`."""

import json
from typing import Any
from uuid import uuid4

from jaxpt.serving.choices import held_back
from jaxpt.tokenizers.interface import Tokenizer

BEGIN, END = "<tool_call>", "</tool_call>"


def read_call(text: str) -> dict[str, Any] | None:
    """Returns a call in OpenAI's form from the JSON between the marks; None where it is none.

    It is an object with a `name` and `arguments` (some templates: `parameters`), an object or JSON text of one.
    """
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    function = {"name": call["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function}


def kept_marks(tokenizer: Tokenizer) -> frozenset[int]:
    """Returns the control tokens that are marks of calls, which stay in the text."""
    return frozenset(i for i, text, _ in tokenizer.special_tokens() if text in (BEGIN, END))


class ToolCallReader:
    """Parts a text that comes in pieces into content and calls.

    What stands between marks and is no call stays in the content as it was written, marks included.
    """

    def __init__(self) -> None:
        """Begins with no text."""
        self._text = ""
        self.calls = 0

    def add(self, text: str, last: bool) -> tuple[str, list[dict[str, Any]]]:
        """Returns content and calls that are complete with `text`; what may become a call is held back until `last`."""
        self._text += text
        content, calls = "", []
        while True:
            at = self._text.find(BEGIN)
            if at < 0:
                sure = self._text if last else held_back(self._text, (BEGIN,))
                content, self._text = content + sure, self._text[len(sure) :]
                break
            end = self._text.find(END, at)
            if end < 0 and not last:
                content, self._text = content + self._text[:at], self._text[at:]
                break
            inner = self._text[at + len(BEGIN) : end if end >= 0 else None]
            after = end + len(END) if end >= 0 else len(self._text)
            call = read_call(inner)
            content += self._text[:at] if call else self._text[:after]
            if call:
                calls.append(call)
            self._text = self._text[after:]
        self.calls += len(calls)
        if self.calls and not content.strip():
            content = ""  # what stands between calls
        return content, calls
