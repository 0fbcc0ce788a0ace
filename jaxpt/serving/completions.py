"""`POST /v1/completions`: texts or token ids continued, echoed and judged."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from jaxpt.serving.asked import IGNORED, NEUTRAL, ContinuationOptions, read_asked
from jaxpt.serving.choices import ChoiceText, NewText
from jaxpt.serving.engine_thread import TOP
from jaxpt.serving.exchange import EventStream, Exchange, json_response, read_json
from jaxpt.serving.fields import RequestFields
from jaxpt.serving.jobs import PromptJob
from jaxpt.serving.logprobs import completion_logprobs
from jaxpt.serving.refusal import Refusal
from jaxpt.serving.served import ServedModel

USUAL = 16  # new tokens where max_tokens is not given, as OpenAI's
REFUSED: dict[str, tuple[object, ...]] = {
    **NEUTRAL,
    "suffix": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "truncate_prompt_tokens": (),
}


@dataclass(frozen=True)
class _Prompt:
    """A prompt: its ids, and its text (of ids: what they are decoded to)."""

    ids: list[int]
    text: str


@dataclass(frozen=True)
class _CompletionAsked:
    model: str
    asked: ContinuationOptions
    prompts: list[_Prompt]
    echo: bool
    logprobs: int | None


async def completions(served: ServedModel, request: Request) -> Response:
    """Answers a request, whole or as events."""
    fields = RequestFields(await read_json(request, served.limits.body))
    a = await served.apart(_read, served, fields)
    until = time.monotonic() + served.limits.seconds
    jobs = [_job(served, a, prompt, until) for prompt in a.prompts]
    exchange = Exchange(served, request, jobs)
    head = {"id": f"cmpl-{uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": a.model}
    choices = [_Choice(served, a, p, job, n) for p, job in zip(a.prompts, jobs) for n in range(a.asked.n)]
    if a.asked.stream:
        exchange.submit()
        return EventStream(exchange, lambda: _events(exchange, choices, head, a.asked))
    await exchange.whole()
    made = [{"index": i, **choice.take()[0]} for i, choice in enumerate(choices)]
    return json_response({**head, "choices": made, "usage": usage(jobs)})


def usage(jobs: list[PromptJob]) -> dict[str, int]:
    """Returns the tokens of prompts and of what has been drawn."""
    prompt, drawn = sum(len(job.prompt) for job in jobs), sum(sum(job.visible) for job in jobs)
    return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}


def _read(served: ServedModel, fields: RequestFields) -> _CompletionAsked:
    model = served.name(fields.text("model"))
    given = fields.take("prompt")
    bos = fields.flag("add_special_tokens", True)
    echo = fields.flag("echo", False)
    logprobs = fields.integer("logprobs", None, 0, TOP)
    asked = read_asked(fields, served.vocabulary, fields.integer("max_tokens", None, 0, 2**31 - 1))
    fields.close(IGNORED, {**REFUSED, "best_of": (1, asked.n)})
    prompts = [_prompt(served, p, n, bos) for n, p in enumerate(_prompts(given, served.limits.waiting))]
    return _CompletionAsked(model, asked, prompts, echo, logprobs)


def _prompts(given: Any, most: int) -> list[Any]:
    """The prompts of a request: texts, or lists of ids."""
    want = "text, a list of token ids, or a list of these"
    if given is None or isinstance(given, str):
        return [given or ""]
    if not isinstance(given, list) or not given:
        raise Refusal(400, f"prompt must be {want}, and not empty", param="prompt")
    if all(type(i) is int for i in given):
        return [given]
    if len(given) > most:
        raise Refusal(400, f"prompt is a list of {len(given)}, the server takes {most} (--queue)", param="prompt")
    for n, one in enumerate(given):
        if not isinstance(one, str) and not (isinstance(one, list) and one and all(type(i) is int for i in one)):
            raise Refusal(400, f"prompt[{n}] must be text or a list of token ids, and not empty", param="prompt")
    return given


def _prompt(served: ServedModel, given: Any, n: int, bos: bool) -> _Prompt:
    words = served.vocabulary
    if isinstance(given, str):
        return _Prompt(words.encode(given, bos) or [words.first], given)
    if len(given) > served.thread.max_length:  # before its text is made
        served.room(len(given), 0, None)
    ids = words.checked(given, f"prompt[{n}]")
    return _Prompt(ids, words.decode(ids))


def _job(served: ServedModel, a: _CompletionAsked, prompt: _Prompt, until: float) -> PromptJob:
    new = served.room(len(prompt.ids), a.asked.max_tokens, USUAL)
    requests = a.asked.requests(served.vocabulary, prompt.ids, new, a.logprobs)
    return PromptJob(prompt.ids, requests, a.logprobs if a.echo else None, until)


class _Choice:
    """One choice of the answer, as far as it has been shown."""

    def __init__(self, served: ServedModel, a: _CompletionAsked, prompt: _Prompt, job: PromptJob, number: int):
        self.served, self.a, self.prompt, self.job = served, a, prompt, job
        self.text = ChoiceText(served.vocabulary, a.asked, job, number) if job.requests else None
        self.echoed = not a.echo
        self.offset = 0 if a.echo else len(prompt.text)
        self.over = False

    def take(self) -> tuple[dict[str, object], bool]:
        """Returns what is new, and whether that is anything at all."""
        text, logprobs, reason = "", None, None
        if self.a.logprobs is not None:
            logprobs = _joined()
        if not self.echoed and self.job.read:
            self.echoed = True
            text = self.prompt.text
            if logprobs is not None:
                self._add(
                    logprobs, self.prompt.ids, [None, *self.job.prompt_logprobs], [[], *self.job.prompt_likeliest]
                )
        if self.text is None:
            reason = "length" if self.job.finished else None
        elif self.echoed:
            new = self.text.take()
            text, reason = text + new.text, new.reason
            if logprobs is not None:
                self._add_new(logprobs, new)
        some = bool(text or reason or (logprobs and logprobs["tokens"]))
        self.over |= reason is not None
        return {"text": text, "logprobs": logprobs, "finish_reason": reason}, some

    def _add_new(self, to: dict[str, list[Any]], new: NewText) -> None:
        assert self.text is not None
        made = self.text.completion
        at = slice(new.begin, new.end)
        self._add(to, made.tokens[at], made.logprobs[at], made.top[at])

    def _add(self, to: dict[str, list[Any]], tokens: Any, logprobs: Any, top: Any) -> None:
        more = completion_logprobs(self.served.vocabulary, tokens, logprobs, top, self.offset)
        self.offset += sum(len(t) for t in more["tokens"])
        for key, values in more.items():
            to[key] += values


def _joined() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


async def _events(
    exchange: Exchange, choices: list[_Choice], head: dict[str, object], asked: ContinuationOptions
) -> AsyncIterator[object]:
    nothing = {"usage": None} if asked.include_usage else {}
    while not all(choice.over for choice in choices):
        await exchange.changed()
        for i, choice in enumerate(choices):
            if choice.over:
                continue
            made, some = choice.take()
            if some:
                yield {**head, "choices": [{"index": i, **made}], **nothing}
    if asked.include_usage:
        yield {**head, "choices": [], "usage": usage(exchange.jobs)}
