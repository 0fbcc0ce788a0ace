"""One request and its answer: the body read within limits, the client watched, events sent as they come."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jaxpt.serving.fields import parse
from jaxpt.serving.jobs import PromptJob
from jaxpt.serving.limits import BODY_SECONDS
from jaxpt.serving.refusal import Refusal
from jaxpt.serving.served import ServedModel

LATE = 2.0  # seconds that an answer may take beyond a job's deadline, when the engine is in a long program
SENT_WITHIN = 30.0  # seconds in which a client must take what is written to it


async def read_json(request: Request, most: int) -> dict[str, Any]:
    """Returns the body's JSON object.

    Raises:
        Refusal: it has more than `most` bytes, is slower than `BODY_SECONDS`, or is not such an object.
    """
    length = request.headers.get("content-length", "0")
    large = Refusal(413, f"the body is larger than the {most} bytes that the server takes (--max_body)")
    if length.isdigit() and int(length) > most:
        raise large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise large
    except TimeoutError:
        raise Refusal(
            408, f"the body was not there within {BODY_SECONDS:g} seconds", headers={"connection": "close"}
        ) from None
    return parse(bytes(body))


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns an answer in JSON; ASCII, so that an unpaired surrogate of a request's text can stand in it."""
    return Response(json.dumps(value, allow_nan=False), status, headers, media_type="application/json")


class Exchange:
    """The jobs of one request: submitted together, waited for, and cancelled where nobody waits any more."""

    def __init__(self, served: ServedModel, request: Request, jobs: Sequence[PromptJob]):
        """Takes jobs that are not submitted yet."""
        self.served, self.request, self.jobs = served, request, list(jobs)
        self._more = asyncio.Event()
        loop = asyncio.get_running_loop()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the server's loop has ended
                loop.call_soon_threadsafe(self._more.set)

        for job in self.jobs:
            job.notify = notify

    def submit(self) -> None:
        """Gives the jobs to the engine's thread; raises a Refusal where it takes none."""
        self.served.thread.submit(self.jobs)

    def cancel(self) -> None:
        """Ends what is not over."""
        for job in self.jobs:
            self.served.thread.cancel(job)

    async def changed(self) -> None:
        """Waits until there is more of one of the jobs.

        Raises:
            Refusal: one of them was refused, or is long over its time.
        """
        late = max((job.deadline for job in self.jobs), default=time.monotonic()) + LATE - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, late)):
                await self._more.wait()
        except TimeoutError:
            raise Refusal(504, "the request took longer than the server allows (--timeout)", code="timeout") from None
        self._more.clear()
        for job in self.jobs:
            if job.refusal is not None:
                raise job.refusal

    async def whole(self) -> None:
        """Waits until all jobs are finished.

        Raises:
            Refusal: one of them was refused; the others are cancelled.
            ClientDisconnect: the client has gone; all are cancelled.
        """
        self.submit()
        gone = asyncio.create_task(_gone(self.request.receive))
        try:
            while not all(job.finished for job in self.jobs):
                more = asyncio.create_task(self.changed())
                try:
                    await asyncio.wait((more, gone), return_when=asyncio.FIRST_COMPLETED)
                    if gone.done():
                        self.served.figures.gone.inc()
                        raise ClientDisconnect
                    await more
                finally:
                    more.cancel()
        finally:
            gone.cancel()
            self.cancel()
        self.count()

    def count(self) -> None:
        """Adds what has been done to the server's figures."""
        figures = self.served.figures
        for job in self.jobs:
            figures.prompt_tokens.inc(len(job.prompt))
            drawn = sum(job.visible)
            figures.generated_tokens.inc(drawn)
            if job.first_token is not None:
                figures.first_token.observe(job.first_token - job.submitted)
                if drawn > len(job.requests):
                    spent = time.monotonic() - job.first_token
                    figures.token.observe(spent / (drawn - len(job.requests)))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events as a generator gives them; the jobs are cancelled when the client goes or is too slow.

    What is written waits in the connection, which holds some tens of kilobytes; a client that takes nothing for
    `SENT_WITHIN` seconds is cut off. The engine never waits for it.
    """

    def __init__(self, exchange: Exchange, events: Callable[[], AsyncIterator[object]]):
        """Takes jobs that are submitted, and what makes events (JSON values) of them."""
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self.exchange, self.events = exchange, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        writing = asyncio.create_task(self._write(send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((writing, gone), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.exchange.served.figures.gone.inc()
                return
            try:
                await writing
            except TimeoutError:
                scope["state"]["connection"].cut()
                await gone
        finally:
            gone.cancel()
            writing.cancel()
            self.exchange.cancel()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self.events():
                await _send(send, f"data: {json.dumps(event, allow_nan=False)}\n\n", True)
            self.exchange.count()
        except Refusal as refusal:
            await _send(send, f"data: {json.dumps(refusal.body())}\n\n", True)
        await _send(send, "data: [DONE]\n\n", True)
        await _send(send, "", False)


async def _send(send: Send, text: str, more: bool) -> None:
    async with asyncio.timeout(SENT_WITHIN):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
