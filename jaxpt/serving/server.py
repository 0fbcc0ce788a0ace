"""The server's process: a socket, connections with limits of time, and a clean stop."""

import asyncio
import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxpt.cli.stopping import Requests, write_line
from jaxpt.errors import JaxptError
from jaxpt.serving.engine_thread import EngineThread
from jaxpt.serving.exchange import SENT_WITHIN
from jaxpt.serving.limits import CONNECTIONS, HEAD_SECONDS

AFTER = 5.0  # seconds in which answers are written once the engine has stopped
SEND_BUFFER = 1 << 18  # bytes that wait in the kernel for a client that reads slowly; else it takes megabytes
GRACE = 30.0  # seconds that running requests have at a stop


def bind(host: str, port: int) -> socket.socket:
    """Returns a listening socket.

    Raises:
        JaxptError: the port is taken, or the host is none of this machine's.
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = infos[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # each connection has this too
            made.bind(address)
            made.listen(512)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise JaxptError(
            f"--host={host} --port={port}: {error.strerror or error}; choose another port (0: one that is free)"
        ) from error
    return made


class TimedConnection(H11Protocol):
    """A connection that must say what it wants in time, and take what it is sent.

    uvicorn limits neither: a client that sends a header's letters one by one, or reads nothing, would keep its place.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        """Gives each request's scope its connection, as `state.connection`."""
        super().__init__(*args, **kwargs)
        self.app_state = {**self.app_state, "connection": self}
        self._head: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            self.cut()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting unless the request's head is there."""
        super().data_received(data)
        if self._in_request():
            self._stop_waiting()
        elif self._head is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begins to look whether the answer is taken."""
        super().on_response_complete()
        self._look(self.transport.get_write_buffer_size() + 1)

    def cut(self) -> None:
        """Ends the connection at once, with what is not sent."""
        self.transport.abort()

    def _in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_late(self) -> None:
        self._head = None
        if not self._in_request():
            self.cut()

    def _look(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left >= before:
            self.cut()
        elif left:
            self.loop.call_later(SENT_WITHIN, self._look, left)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `Requests`."""
        yield


class HttpServer:
    """Serves an application until it is stopped."""

    def __init__(self, app: ASGIApp, listening: socket.socket, thread: EngineThread, grace: float = GRACE):
        """Takes what it serves.

        Args:
            app: the application.
            listening: a bound socket.
            thread: the engine's thread, started.
            grace: seconds that running requests have at a stop.
        """
        self.thread, self.grace, self._listening = thread, grace, listening
        config = uvicorn.Config(
            app,
            http=TimedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(grace + AFTER),
        )
        self._server = _Server(config)

    def stop(self) -> None:
        """Refuses what comes and what waits; running requests may go on for the grace time. From any thread."""
        self.thread.stop(self.grace)
        self._server.should_exit = True

    def run(self, ready: Callable[[], object]) -> None:
        """Serves until `stop`, SIGTERM or Ctrl-C; a second signal ends the process at once.

        Args:
            ready: called when requests are taken.

        Raises:
            JaxptError: the engine has failed for good.
        """

        def stop(name: str) -> None:
            self.stop()
            write_line(f"jaxpt serve: {name}: running requests have {self.grace:g} s (again: stop at once)")

        with Requests(stop, lambda name: None):
            args = (self._server, self.thread, ready)
            threading.Thread(target=_watch, args=args, daemon=True, name="watch").start()
            self._server.run(sockets=[self._listening])
        failed = not self.thread.healthy and not self.thread.stopping
        self.thread.stop(0)
        if not self.thread.join(AFTER):
            print("jaxpt serve: the engine is in a long program; it is left", file=sys.stderr)
        if failed:
            raise JaxptError("the engine has failed for good; the lines above say how")


def _watch(server: uvicorn.Server, thread: EngineThread, ready: Callable[[], object]) -> None:
    """Says when the server is ready, and stops it when the engine has failed for good."""
    while not server.started and not server.should_exit:
        time.sleep(0.01)
    if server.started:
        ready()
    while not server.should_exit:
        if not thread.healthy and not thread.stopping:
            server.should_exit = True
        time.sleep(0.2)
