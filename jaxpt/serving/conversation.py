"""A conversation as its chat template writes it, from OpenAI's messages to token ids."""

import contextlib
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpt.serving.fields import RequestFields
from jaxpt.serving.refusal import Refusal
from jaxpt.serving.vocabulary import ServedVocabulary
from jaxpt.tokenizers.chat import render_apart
from jaxpt.tokenizers.templates import template_for

MOST_MESSAGES = 2000
OURS = ("messages", "tools", "add_generation_prompt")  # names of a template that a request gives otherwise


def read_messages(fields: RequestFields) -> list[dict[str, Any]]:
    """Returns `messages` as templates read them: content is text, the arguments of calls are objects.

    Raises:
        Refusal: they are no list of messages, or hold something else than text.
    """
    given = fields.take("messages")
    if not isinstance(given, list) or not given or len(given) > MOST_MESSAGES:
        fields.refuse("messages", given, f"a list of 1 to {MOST_MESSAGES} messages")
    return [_message(m, f"messages[{n}]") for n, m in enumerate(given)]


def _message(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict) or not isinstance(given.get("role"), str):
        raise Refusal(400, f"{where} must be an object with a role", param=where)
    message = {k: v for k, v in given.items() if v is not None}
    message["content"] = _text(message.get("content", ""), where)
    if "tool_calls" in message:
        calls = message["tool_calls"]
        if not isinstance(calls, list):
            raise Refusal(400, f"{where}.tool_calls must be a list of calls", param=where)
        message["tool_calls"] = [_call(c, f"{where}.tool_calls[{n}]") for n, c in enumerate(calls)]
    return message


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in content
    ):
        return "".join(p["text"] for p in content)
    raise Refusal(
        400, f"{where}.content must be text, or a list of parts of type text: the model reads text", param=where
    )


def _call(given: Any, where: str) -> dict[str, Any]:
    function = given.get("function") if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Refusal(400, f"{where} must have a function with a name", param=where)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # then as the model wrote it
            arguments = json.loads(arguments or "{}")
    return {**given, "function": {**function, "arguments": arguments}}


def read_tools(fields: RequestFields) -> list[dict[str, Any]]:
    """Returns the tools that the template is to show: none where `tool_choice` is "none".

    Raises:
        Refusal: they are no functions, or one of them is to be forced.
    """
    given = fields.take("tools")
    choice = fields.take("tool_choice")
    if choice not in (None, "auto", "none"):
        raise Refusal(400, "tool_choice may be auto or none: a model is not forced to call a tool", param="tool_choice")
    if given is None:
        return []
    named = isinstance(given, list) and all(
        isinstance(t, dict) and isinstance(t.get("function"), dict) and isinstance(t["function"].get("name"), str)
        for t in given
    )
    if not named:
        fields.refuse("tools", given, "a list of functions, each with a name")
    return [] if choice == "none" else given


def conversation_ids(
    vocabulary: ServedVocabulary, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], values: Mapping[str, Any]
) -> list[int]:
    """Returns the token ids of a conversation.

    A control token that a message only spells is encoded as text: it ends no turn.

    Args:
        vocabulary: with the tokenizer and its template.
        messages: as `read_messages` gives them.
        tools: that the template shows.
        values: further names for the template.

    Raises:
        JaxptError: there is no template, or it refuses the messages.
    """
    tokenizer = vocabulary.tokenizer
    template = template_for(tokenizer.chat_templates, tools, str(tokenizer.files[0]))
    given = {**tokenizer.special_texts, **values, **({"tools": list(tools)} if tools else {})}
    now = datetime.datetime.now().isoformat()
    made = render_apart(
        template, list(messages), given, control=tokenizer.control, name=tokenizer.template_name, date=now
    )
    return vocabulary.encode(made.text, literal=made.literal) or [vocabulary.first]


def read_template_values(fields: RequestFields) -> dict[str, Any]:
    """Returns further names for the template: `add_generation_prompt` and those of `chat_template_kwargs`."""
    values = fields.mapping("chat_template_kwargs")
    if taken := sorted(set(OURS) & set(values)):
        raise Refusal(400, f"chat_template_kwargs has {taken[0]}, which is a key of the request itself")
    return {**values, "add_generation_prompt": fields.flag("add_generation_prompt", True)}
