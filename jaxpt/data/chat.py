"""Conversations to tokenized documents in which only what the assistant wrote may be a target."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpt.data.documents import document_id
from jaxpt.data.packing import Document
from jaxpt.data.tokenize import ALL, Selection, Tokenized
from jaxpt.errors import JaxptError
from jaxpt.tokenizers.chat import (
    DATE,
    NAMED,
    NOTHING,
    CharacterSpan,
    Conversation,
    Rendered,
    named_template,
    render_conversations,
)
from jaxpt.tokenizers.interface import Tokenizer
from jaxpt.tokenizers.templates import DEFAULT, TOOL_USE

TOOLS = "tools"  # the field with a conversation's function signatures, where it has any


def templates_of(tokenizer: Tokenizer | None, name: str | None) -> dict[str, str]:
    """Returns the chat template called `name` as `template`, or the tokenizer's own for None.

    Of the tokenizer's own, the one called `tool_use` stands as `tool_template`, where there is one: it writes the
    conversations that have tools. A name is one of jaxpt's, one of the tokenizer's, or a file.

    Raises:
        JaxptError: the tokenizer has none, or there is none of that name.
    """
    assert tokenizer is not None  # only text is packed without one
    own = tokenizer.chat_templates
    if name is not None:
        return {"template": own[name] if name in own and name not in NAMED else named_template(name)}
    if not own:
        raise JaxptError(
            f"the tokenizer {tokenizer.files[0]} has no chat template; set template to one of {', '.join(NAMED)} or to "
            f"a .jinja file"
        )
    if DEFAULT not in own:
        raise JaxptError(
            f"the tokenizer {tokenizer.files[0]} has no chat template called {DEFAULT}; set template to one of "
            f"{', '.join(own)}"
        )
    return {"template": own[DEFAULT], **({"tool_template": own[TOOL_USE]} if TOOL_USE in own else {})}


def tokenize_chats(
    documents: Iterable[dict[str, object]],
    tokenizer: Tokenizer,
    book: Tokenized,
    *,
    template: str,
    tool_template: str | None = None,
    field: str = "messages",
    selection: Selection = ALL,
    batch: int = 64,
    template_name: str = "chat template",
    control_tokens: bool = False,
    date: str = DATE,
) -> Iterator[Document]:
    """Yields conversations as tokens whose mask holds on the assistant's turns; fills `book`.

    A conversation's id is that of its messages and tools, not of what a template makes of them. One in which the
    assistant says nothing teaches nothing: it is left out and counted in `book.left_out`.

    Args:
        documents: dicts with `field`, a list of messages (`role`, `content`, `tool_calls`), and optionally `tools`.
        tokenizer: a `jaxpt.tokenizers.Tokenizer`.
        book: receives id and length of each conversation, and the UTF-8 bytes of the rendered text.
        template: the chat template's source.
        tool_template: that of conversations with tools; None: the same.
        field: where the messages are.
        selection: which conversations are taken.
        batch: conversations encoded together.
        template_name: what errors call the template.
        control_tokens: read control tokens that messages spell as such; else only those that the template writes are.
        date: what the template's `strftime_now` says, in ISO form.

    Raises:
        JaxptError: messages of another form, or that the template refuses; the conversation's number is named.
    """
    how: dict[str, Any] = {"templates": (template, tool_template or template), "name": template_name, "date": date}
    how["control"] = NOTHING if control_tokens else tokenizer.control
    waiting: list[_Waiting] = []
    for number, document in enumerate(documents, 1):
        try:
            messages, tools = normal_messages(document[field]), _normal_tools(document.get(TOOLS))
        except JaxptError as error:
            yield from _encoded(waiting, tokenizer, book, how)  # what is wrong with one before it is said first
            raise JaxptError(f"conversation {number}: {error}") from error
        identity = conversation_id(messages, tools)
        if selection.takes(document, identity):
            waiting.append((number, identity, (messages, {**tokenizer.special_texts, "tools": tools})))
        if len(waiting) == batch:
            yield from _encoded(waiting, tokenizer, book, how)
            waiting = []
    yield from _encoded(waiting, tokenizer, book, how)


_Waiting = tuple[int, bytes, Conversation]  # its number and its id


def _encoded(
    waiting: Sequence[_Waiting], tokenizer: Tokenizer, book: Tokenized, how: Mapping[str, Any]
) -> Iterator[Document]:
    rendered: list[Rendered] = []
    for (number, _, _), made in zip(waiting, _rendered([conversation for _, _, conversation in waiting], **how)):
        if isinstance(made, JaxptError):
            raise JaxptError(f"conversation {number}: {made}") from made
        rendered.append(made)
    texts, literal = [made.text for made in rendered], [made.literal for made in rendered]
    encoded = tokenizer.encode_with_offsets(texts, True, literal)
    for (_, identity, _), made, (ids, offsets) in zip(waiting, rendered, encoded, strict=True):
        mask = within(offsets, made.spans)
        if not mask.any():
            book.left_out += 1
            continue
        book.ids.append(identity)
        book.lengths.append(len(ids))
        book.text_bytes += len(made.text.encode("utf-8", "surrogatepass"))
        book.control += len(made.literal)
        yield Document(ids, mask, len(book.ids) - 1)


def _rendered(
    conversations: Sequence[Conversation], templates: tuple[str, str], **how: Any
) -> list[Rendered | JaxptError]:
    """What the first of `templates` makes of each conversation without tools, and the second of one with tools; after
    one that is wrong there may be none."""
    by = [bool(values["tools"]) for _, values in conversations]
    parts = {
        tools: iter(
            render_conversations(template, conversations=[c for c, b in zip(conversations, by) if b == tools], **how)
        )
        for tools, template in enumerate(templates)
        if tools in by
    }
    out = []
    for tools in by:
        made = next(parts[tools], None)
        if made is None:
            break
        out.append(made)
    return out


def within(offsets: np.ndarray, spans: Sequence[CharacterSpan]) -> np.ndarray:
    """Returns which tokens lie at least in part within one of the `spans` of characters, bool `[n]`.

    Args:
        offsets: `[n, 2]` (start, stop) characters of each token.
        spans: (start, stop), apart.
    """
    start, stop = offsets[:, 0], np.maximum(offsets[:, 1], offsets[:, 0] + 1)
    out = np.zeros(len(offsets), bool)
    for a, b in spans:
        out |= (start < b) & (stop > a)
    return out


def conversation_id(messages: Sequence[Mapping[str, object]], tools: object) -> bytes:
    """Returns the document id of a conversation, whichever template writes it."""
    return document_id(json.dumps([messages, tools], ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def normal_messages(value: object) -> list[dict[str, object]]:
    """Returns messages in the one form templates know.

    Keys without a value go (Parquet gives every message every key); content given as parts becomes their text; the
    arguments of a function call given as JSON text become the object. Messages may be JSON text as a whole, or columns
    (`{"role": [...], "content": [...]}`) as TFDS has them.

    Raises:
        JaxptError: anything else.
    """
    if isinstance(value, str):
        value = _from_json(value, "messages")
    if isinstance(value, Mapping):
        value = [dict(zip(value, row)) for row in zip(*value.values())]
    if not isinstance(value, list) or not all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in value):
        raise JaxptError("messages must be a list of objects with a role")
    return [_normal_message(m) for m in value]


def _normal_message(message: Mapping[str, object]) -> dict[str, object]:
    out = {k: v for k, v in message.items() if v is not None}
    content = out.get("content", "")
    if isinstance(content, list):
        content = "".join(_part(p) for p in content)
    if not isinstance(content, str):
        raise JaxptError(f"the content of a message is {type(content).__name__}, not text")
    out["content"] = content
    if "tool_calls" in out:
        calls = out["tool_calls"]
        if not isinstance(calls, Iterable):
            raise JaxptError(f"the tool_calls of a message are {type(calls).__name__}, not a list")
        out["tool_calls"] = [_normal_call(c) for c in calls]
    return out


def _part(part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise JaxptError(f"the content of a message has a part of kind {kind}; only text is read")


def _normal_call(call: object) -> dict[str, object]:
    call = call if isinstance(call, Mapping) else {}
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise JaxptError("a tool call must be an object with a function's name and arguments")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _from_json(arguments, f"the arguments of {function['name']}")
    rest = {k: v for k, v in call.items() if v is not None and k not in ("function", "name", "arguments")}
    return {"type": "function", **rest, "function": {"name": function["name"], "arguments": arguments or {}}}


def _normal_tools(value: object) -> list[object] | None:
    if isinstance(value, str):
        value = _from_json(value, TOOLS) if value.strip() else None
    if value is not None and not isinstance(value, list):
        raise JaxptError(f"{TOOLS} must be a list of function signatures, it is {type(value).__name__}")
    return value or None


def _from_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise JaxptError(f"{what} are text that is not JSON ({e})") from e
