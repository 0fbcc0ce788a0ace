"""The routes of a server, and what stands before all of them: who may ask, from where, and in which form."""

import hmac
import time
from collections.abc import Awaitable, Callable, Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxpt.serving.chat import chat_completions
from jaxpt.serving.completions import completions
from jaxpt.serving.exchange import json_response
from jaxpt.serving.lightllm import generate
from jaxpt.serving.page import chat_page
from jaxpt.serving.refusal import Refusal
from jaxpt.serving.served import ServedModel
from jaxpt.serving.tokenizer_routes import detokenize, tokenize, tokenizer_info

Answer = Callable[[ServedModel, Request], Awaitable[Response]]
OPEN = ("/healthz", "/")  # paths that need no token: nothing of the model is in them
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")


def make_app(served: ServedModel, token: str | None, hosts: Collection[str] | None) -> ASGIApp:
    """Returns the server's application.

    Args:
        served: the model.
        token: what clients must have as their bearer token (`api_key`); None: nothing.
        hosts: names that the Host header may have, without a port; None: any.
    """
    gauges: list[tuple[str, str, Callable[[], float]]] = [
        ("queue_length", "continuations that wait", lambda: served.thread.queued),
        ("slots", "continuations at once", lambda: served.thread.slots),
        ("slots_busy", "slots that are taken", lambda: served.thread.busy),
    ]
    for name, what, value in gauges:
        served.figures.watch(name, what, value)
    routes: list[tuple[str, str, Answer]] = [
        ("GET", "/v1/models", models),
        ("GET", "/v1/models/{name:path}", one_model),
        ("POST", "/v1/completions", completions),
        ("POST", "/v1/chat/completions", chat_completions),
        ("GET", "/tokenizer_info", tokenizer_info),
        ("POST", "/tokenize", tokenize),
        ("POST", "/detokenize", detokenize),
        ("POST", "/generate", generate),
        ("GET", "/healthz", healthz),
        ("GET", "/metrics", metrics),
        ("GET", "/", chat_page),
    ]
    app = Starlette(
        routes=[Route(path, _bound(served, answer), methods=[method]) for method, path, answer in routes],
        exception_handlers={HTTPException: _http_error, Exception: _fault},
    )
    return _Guard(app, served, token, hosts, {path for _, path, _ in routes})


def _bound(served: ServedModel, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    async def bound(request: Request) -> Response:
        try:
            return await answer(served, request)
        except Refusal as refusal:
            return json_response(refusal.body(), refusal.status, refusal.headers)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it

    return bound


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: f"there is no {request.url.path[:100]} here", 405: f"{request.method} is not what this path answers"}
    refusal = Refusal(error.status_code, words.get(error.status_code, error.detail))
    return json_response(refusal.body(), error.status_code, dict(error.headers or {}))


async def _fault(request: Request, error: Exception) -> Response:
    return json_response(Refusal(500, "the server failed; its log says how").body(), 500)


async def models(served: ServedModel, request: Request) -> Response:
    """Answers with the served model under each of its names."""
    return json_response({"object": "list", "data": [_model(served, name) for name in served.names]})


async def one_model(served: ServedModel, request: Request) -> Response:
    """Answers with the served model under one of its names."""
    return json_response(_model(served, served.name(request.path_params["name"])))


def _model(served: ServedModel, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "jaxpt",
        "max_model_len": served.thread.max_length,
        "chat_template": served.vocabulary.tokenizer.chat_template is not None,
    }


async def healthz(served: ServedModel, request: Request) -> Response:
    """Answers whether the server takes requests."""
    healthy = served.thread.healthy
    return json_response({"status": "ok" if healthy else "unavailable"}, 200 if healthy else 503)


async def metrics(served: ServedModel, request: Request) -> Response:
    """Answers with the server's figures for Prometheus."""
    return Response(served.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Guard:
    """Refuses what may not come in, and counts what is answered."""

    def __init__(
        self, app: ASGIApp, served: ServedModel, token: str | None, hosts: Collection[str] | None, paths: set[str]
    ):
        self.app, self.served, self.token, self.hosts, self.paths = app, served, token, hosts, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun, status = time.monotonic(), [500]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        route = scope["path"] if scope["path"] in self.paths else "other"
        try:
            await self._answer(scope, receive, counted)
        finally:
            self.served.figures.requests.labels(route, str(status[0])).inc()
            self.served.figures.seconds.labels(route).observe(time.monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        try:
            self._check(request)
        except Refusal as refusal:
            await json_response(refusal.body(), refusal.status, refusal.headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check(self, request: Request) -> None:
        hosts = request.headers.getlist("host")
        if self.hosts is not None and (len(hosts) != 1 or host_name(hosts[0]) not in self.hosts):
            raise Refusal(403, f"the Host header must be one of {', '.join(sorted(self.hosts))}", code="host")
        if self.token is not None and request.url.path not in OPEN:
            kind, _, given = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
                raise Refusal(
                    401,
                    "the server needs its token: Authorization: Bearer TOKEN (api_key of OpenAI's client)",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        if request.method == "POST":
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refusal(415, "the Content-Type of a request must be application/json", code="content_type")


def host_name(header: str) -> str:
    """Returns the name in a Host header, without port and brackets, in lower case."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]
