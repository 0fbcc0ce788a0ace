"""`POST /v1/chat/completions`: a conversation continued, with tools as the model's chat template shows them."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from jaxpt.serving.asked import IGNORED, NEUTRAL, ContinuationOptions, read_asked
from jaxpt.serving.choices import ChoiceText
from jaxpt.serving.completions import usage
from jaxpt.serving.conversation import conversation_ids, read_messages, read_template_values, read_tools
from jaxpt.serving.engine_thread import TOP
from jaxpt.serving.exchange import EventStream, Exchange, json_response, read_json
from jaxpt.serving.fields import RequestFields
from jaxpt.serving.jobs import PromptJob
from jaxpt.serving.logprobs import chat_logprobs
from jaxpt.serving.refusal import Refusal
from jaxpt.serving.served import ServedModel
from jaxpt.serving.tool_calls import ToolCallReader, kept_marks

REFUSED: dict[str, tuple[object, ...]] = {
    **NEUTRAL,
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "functions": (),
    "function_call": ("auto", "none"),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "echo": (False,),
    "continue_final_message": (False,),
    "guided_json": (),
    "prompt_logprobs": (),
}


@dataclass(frozen=True)
class _ChatAsked:
    model: str
    asked: ContinuationOptions
    prompt: list[int]
    logprobs: int | None
    tools: bool


async def chat_completions(served: ServedModel, request: Request) -> Response:
    """Answers a request, whole or as events."""
    fields = RequestFields(await read_json(request, served.limits.body))
    a = await served.apart(_read, served, fields)
    new = served.room(len(a.prompt), a.asked.max_tokens, None)
    requests = a.asked.requests(served.vocabulary, a.prompt, new, a.logprobs)
    job = PromptJob(a.prompt, requests, None, time.monotonic() + served.limits.seconds)
    exchange = Exchange(served, request, [job])
    choices = [_ChatChoice(served, a, job, n) for n in range(a.asked.n)]
    kind = "chat.completion.chunk" if a.asked.stream else "chat.completion"
    head = {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": a.model}
    if a.asked.stream:
        exchange.submit()
        return EventStream(exchange, lambda: _events(exchange, choices, head, a.asked))
    await exchange.whole()
    made = [{"index": i, **choice.whole()} for i, choice in enumerate(choices)]
    return json_response({**head, "choices": made, "usage": usage([job])})


def _read(served: ServedModel, fields: RequestFields) -> _ChatAsked:
    model = served.name(fields.text("model"))
    messages, tools = read_messages(fields), read_tools(fields)
    values = read_template_values(fields)
    wanted = fields.flag("logprobs", False)
    top = fields.integer("top_logprobs", 0, 0, TOP)
    if top and not wanted:
        raise Refusal(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    most = [fields.integer(key, None, 1, 2**31 - 1) for key in ("max_completion_tokens", "max_tokens")]
    asked = read_asked(fields, served.vocabulary, next((m for m in most if m is not None), None))
    fields.close(IGNORED, REFUSED)
    prompt = conversation_ids(served.vocabulary, messages, tools, values)
    return _ChatAsked(model, asked, prompt, top if wanted else None, bool(tools))


class _ChatChoice:
    """One choice of the answer, as far as it has been shown."""

    def __init__(self, served: ServedModel, a: _ChatAsked, job: PromptJob, number: int):
        self.vocabulary, self.a = served.vocabulary, a
        kept = kept_marks(served.vocabulary.tokenizer) if a.tools else frozenset()
        self.text = ChoiceText(served.vocabulary, a.asked, job, number, kept)
        self.reader = ToolCallReader() if a.tools else None
        self.begun = self.over = False

    def take(self) -> tuple[str, list[dict[str, Any]], dict[str, Any] | None, str | None]:
        """Returns what is new: content, calls, log-probabilities, and why it ended."""
        new = self.text.take()
        content, reason = new.text, new.reason
        calls: list[dict[str, Any]] = []
        if self.reader is not None:
            content, calls = self.reader.add(new.text, new.reason is not None)
            if reason == "stop" and self.reader.calls:
                reason = "tool_calls"
        logprobs = None
        if self.a.logprobs is not None:
            made = self.text.completion
            at = slice(new.begin, new.end - (reason is not None and self.text.ended_by_token))
            logprobs = chat_logprobs(self.vocabulary, made.tokens[at], made.logprobs[at], made.top[at])
        self.over |= reason is not None
        return content, calls, logprobs, reason

    def whole(self) -> dict[str, object]:
        """Returns the finished choice."""
        content, calls, logprobs, reason = self.take()
        message: dict[str, object] = {"role": "assistant", "content": content, "refusal": None}
        if calls:
            message |= {"content": content or None, "tool_calls": calls}
        return {"message": message, "logprobs": logprobs, "finish_reason": reason}

    def delta(self) -> dict[str, object] | None:
        """Returns the next event's part of this choice; None where nothing is new."""
        made = self.reader.calls if self.reader is not None else 0
        content, calls, logprobs, reason = self.take()
        if not (content or calls or reason or (logprobs and logprobs["content"])):
            return None
        delta: dict[str, object] = {}
        if not self.begun:
            self.begun = True
            delta = {"role": "assistant", "content": ""}
        if content:
            delta["content"] = content
        if calls:
            delta["tool_calls"] = [{"index": made + n, **call} for n, call in enumerate(calls)]
        return {"delta": delta, "logprobs": logprobs, "finish_reason": reason}


async def _events(
    exchange: Exchange, choices: list[_ChatChoice], head: dict[str, object], asked: ContinuationOptions
) -> AsyncIterator[object]:
    nothing = {"usage": None} if asked.include_usage else {}
    while not all(choice.over for choice in choices):
        await exchange.changed()
        for i, choice in enumerate(choices):
            made = None if choice.over else choice.delta()
            if made is not None:
                yield {**head, "choices": [{"index": i, **made}], **nothing}
    if asked.include_usage:
        yield {**head, "choices": [], "usage": usage(exchange.jobs)}
