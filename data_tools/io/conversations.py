"""Conversations in the forms that data sets are published in, as the one that chat templates know."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpt.data.chat import normal_messages
from jaxpt.errors import JaxptError

Talk = dict[str, Any]  # `messages`, and `tools` where there are any
ROLES = {
    **dict.fromkeys(("user", "human", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response"), "tool"),
    **dict.fromkeys(("system", "developer"), "system"),
}
CALL = "function_call"  # ShareGPT's turn whose value is the JSON of one call, or of several
FORMS = "messages, conversations (ShareGPT), or instruction and output (Alpaca)"


def talks_of(record: Mapping[str, Any]) -> list[Talk]:
    """Returns the conversations of a record: one, or of a task of Self-Instruct one for each instance.

    A record has `messages` (role and content; content may be text or parts, `reasoning` and `tool_call` parts
    included), `conversations` (ShareGPT: from and value, or role and content; `function_call` and `observation` are the
    turns of functions), or `instruction` with `output` and perhaps `input` and `history` (Alpaca). `system` comes
    first; `tools` are function signatures, also as JSON text, also without their envelope of type function.

    Raises:
        JaxptError: none of these, or one in which the assistant says nothing.
    """
    record = {key: value for key, value in record.items() if value is not None}  # Parquet gives every record every key
    if record.get("messages") or record.get("conversations"):
        turns = [_message(turn) for turn in _listed(record.get("messages") or record["conversations"], "messages")]
        return [_talk(record, turns)]
    if "instruction" in record and isinstance(record.get("instances"), list):
        return [t for i in record["instances"] for t in talks_of({"instruction": record["instruction"], **i})]
    if "instruction" in record and "output" in record:
        turns = []
        for pair in _listed(record.get("history") or [], "history"):
            asked, said = pair
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        asked = "\n".join(part for part in (record["instruction"], record.get("input")) if part)
        return [_talk(record, [*turns, {"role": "user", "content": asked}, _said(record["output"])])]
    raise JaxptError(f"is no conversation: it has {', '.join(record)[:200]}, not {FORMS}")


def _talk(record: Mapping[str, Any], turns: list[dict[str, Any]]) -> Talk:
    system = record.get("system")
    if system and turns and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    messages = normal_messages(turns)
    if not any(m["role"] == "assistant" and (m["content"] or m.get("tool_calls")) for m in messages):
        raise JaxptError("the assistant says nothing")
    tools = [_signature(tool) for tool in _listed(record.get("tools") or [], "tools")]
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _message(turn: object) -> dict[str, Any]:
    """One turn as a message whose content is text."""
    if not isinstance(turn, Mapping):
        raise JaxptError(f"a turn is {type(turn).__name__}, not an object")
    name, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if name not in ROLES:
        raise JaxptError(f"a turn has the role {name!r}; known are {', '.join(ROLES)}")
    if name == CALL:
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    rest = {k: v for k, v in turn.items() if k not in ("role", "from", "content", "value") and v is not None}
    if isinstance(content, list):
        rest, content = _parts(content, rest)
    return {"role": ROLES[name], "content": "" if content is None else content, **rest}


def _said(content: object) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _parts(parts: Sequence[object], rest: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What parts say besides text (`reasoning_content`, `tool_calls`) with `rest`, and their text."""
    texts: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls: list[Any] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        value = part.get("text", part.get("value")) if isinstance(part, Mapping) else None
        if kind == "tool_call" and isinstance(part, Mapping):
            calls += _calls(part.get("value", part))
        elif kind in texts and isinstance(value, str):
            texts[str(kind)].append(value)
        else:
            raise JaxptError(f"the content of a message has a part of kind {kind}; only text and calls are read")
    more = {"reasoning_content": "".join(texts["reasoning"])} if texts["reasoning"] else {}
    return {**rest, **more, **({"tool_calls": calls} if calls else {})}, "".join(texts["text"])


def _calls(value: object) -> list[Any]:
    called = _from_json(value, "a function call")
    return list(called) if isinstance(called, list) else [called]


def _signature(tool: object) -> object:
    """A function's signature in the envelope that templates on the Hugging Face hub expect."""
    if not isinstance(tool, Mapping):
        raise JaxptError(f"tools hold {type(tool).__name__}, not function signatures")
    return tool if "function" in tool or "name" not in tool else {"type": "function", "function": dict(tool)}


def _listed(value: object, what: str) -> list[Any]:
    value = _from_json(value, what)
    if not isinstance(value, list):
        raise JaxptError(f"{what} must be a list, it is {type(value).__name__}")
    return value


def _from_json(value: object, what: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else []
    except json.JSONDecodeError as error:
        raise JaxptError(f"{what} is text that is not JSON ({error})") from error
