"""Who may ask, how much, and for how long; strangers' requests leave the server as it was."""

import contextlib
import http.client
import json
import random
import resource
import socket
import threading
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxpt.serving import exchange, server
from jaxpt.serving.app import host_name
from tests.serving.live import serving, with_template

TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def guarded(shared, tmp_path_factory):
    """A server with a token and small limits."""
    path = with_template(shared, tmp_path_factory.mktemp("guarded") / "stories")
    with serving(path, token=TOKEN, slots=2, waiting=6, body=20_000, seconds=1.5) as made:
        yield made


def test_a_page_that_rebinds_a_name_gets_nothing(live):
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:80", ""):
        status, answer = live.ask("/v1/models", headers={"host": host})
        assert (status, answer["error"]["code"]) == (403, "host")
    for host in ("localhost", "127.0.0.1:9", "LOCALHOST:80"):
        assert live.ask("/v1/models", headers={"host": host})[0] == 200
    assert [host_name(h) for h in ("[::1]:80", "a:1", "A", "[::1")] == ["::1", "a", "a", "::1"]


def test_a_form_of_another_page_gets_nothing(live):
    body = json.dumps({"prompt": "Lily"}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        status, answer = live.ask("/v1/completions", raw=body, headers={"content-type": kind})
        assert (status, answer["error"]["code"]) == (415, "content_type")
    json_kind = {"content-type": "application/JSON; charset=utf-8"}
    assert live.ask("/v1/completions", raw=body, headers=json_kind)[0] == 200


def test_paths_and_methods_that_are_not_there_are_said_in_json(live):
    assert live.ask("/v1/nothing")[0] == 404
    assert live.ask("/v1/nothing")[1]["error"]["type"] == "not_found_error"
    assert live.ask("/v1/completions", method="GET")[0] == 405
    assert live.ask("/v1/models/no-such")[0] == 404


def test_without_the_token_only_the_health_is_told(guarded):
    with_token = lambda given: {"authorization": given}  # noqa: E731
    assert guarded.ask("/healthz") == (200, {"status": "ok"})
    for headers in ({}, with_token("Bearer wrong"), with_token(TOKEN), with_token("Basic " + TOKEN)):
        for path in ("/v1/models", "/metrics", "/tokenizer_info", "/nothing"):
            status, answer = guarded.ask(path, headers=headers)
            assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
    assert guarded.ask("/v1/models", headers=with_token(f"Bearer {TOKEN}"))[0] == 200


def test_a_request_that_is_too_large_or_too_long_is_refused_or_ended(guarded):
    ask = lambda **body: guarded.ask("/v1/completions", body, headers={"authorization": f"Bearer {TOKEN}"})  # noqa: E731
    assert ask(prompt="a" * 30_000)[0] == 413
    assert ask(prompt="a", n=7)[0] == 400
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(prompt="a", n=3, max_tokens=400))) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    codes = {status: answer["error"]["code"] for status, answer in answers if status != 200}
    assert codes.get(429, "queue_full") == "queue_full"
    assert 429 in codes
    assert set(codes) <= {429, 504}
    assert guarded.idle()
    assert ask(prompt="a", max_tokens=2)[0] == 200


def test_a_request_over_its_time_is_ended(guarded, monkeypatch):
    slow = guarded.served.thread._slots.advance
    monkeypatch.setattr(guarded.served.thread._slots, "advance", lambda: time.sleep(0.5) or slow())
    headers = {"authorization": f"Bearer {TOKEN}"}
    status, answer = guarded.ask("/v1/completions", {"prompt": "a", "max_tokens": 100}, headers=headers)
    assert (status, answer["error"]["code"]) == (504, "timeout")
    status, text = guarded.ask("/v1/completions", {"prompt": "a", "max_tokens": 100, "stream": True}, headers=headers)
    assert status == 200
    assert '"code": "timeout"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert guarded.idle()


def raw_request(live, body, path="/v1/completions"):
    data = json.dumps(body).encode()
    made = socket.create_connection(("127.0.0.1", live.port), timeout=30)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    made.sendall(f"{head}\r\n\r\n".encode() + data)
    return made


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_place(live, stream):
    assert live.idle()
    gone = live.served.figures.gone._value.get()
    clients = [
        raw_request(live, {"prompt": "Once", "max_tokens": 500, "n": 4, "ignore_eos": True, "stream": stream})
        for _ in range(3)
    ]
    until = time.monotonic() + 20
    while live.served.thread.busy < 8:
        assert time.monotonic() < until
        time.sleep(0.005)
    for client in clients:
        client.close()
    begun = time.monotonic()
    assert live.idle()
    assert time.monotonic() - begun < 5
    assert live.served.figures.gone._value.get() == gone + 3


def test_a_client_that_reads_nothing_is_cut_off_and_holds_up_nobody(live, monkeypatch):
    monkeypatch.setattr(exchange, "SENT_WITHIN", 1.0)
    monkeypatch.setattr(server, "SENT_WITHIN", 1.0)
    body = {"prompt": "Once", "max_tokens": 500, "n": 6, "logprobs": 20, "ignore_eos": True}
    stuck = []
    for stream in (True, False):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", live.port))
        data = json.dumps({**body, "stream": stream}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        stuck.append(client)
    begun = time.monotonic()
    assert live.complete(prompt="Lily", max_tokens=4)
    assert time.monotonic() - begun < 20
    assert live.idle(30)
    for client in stuck:
        client.settimeout(20)
        got = b""
        time.sleep(2.5)
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                got += part
        client.close()
        assert got.startswith(b"HTTP/1.1 200")
        assert b"[DONE]" not in got
        assert not got.rstrip().endswith(b"}}")  # the rest was not sent


def test_a_head_or_a_body_that_comes_letter_by_letter_is_cut_off(live, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.5)
    slow = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    silent = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    begun = time.monotonic()
    with contextlib.suppress(OSError):
        for letter in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 1000:
            slow.sendall(bytes([letter]))
            time.sleep(0.02)
    assert time.monotonic() - begun < 5
    with contextlib.suppress(ConnectionResetError):
        assert silent.recv(10) == b""
    half = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    half.sendall(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert half.recv(1000).startswith(b"HTTP/1.1 400")
    head = (
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    part = socket.create_connection(("127.0.0.1", live.port), timeout=10)
    part.sendall(head)
    assert part.recv(1000).startswith(b"HTTP/1.1 408")


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe{}",
    b'{"prompt": "\xed\xa0\x80"}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"metadata": ' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}",
    b'{"prompt": "a", "temperature": NaN}',
    b'{"prompt": "a", "temperature": Infinity}',
    b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
    b'{"prompt": "a", "max_tokens": -5}',
    b'{"prompt": "a", "max_tokens": 1e400}',
    b'{"prompt": [' + b"1," * 200_000 + b"1]}",
    b'{"prompt": "' + b"a" * 900_000 + b'"}',
    b'{"prompt": {"a": 1}}',
    b'{"prompt": "a", "logit_bias": {"-1": 5}}',
    b'{"prompt": "a", "stop": ' + json.dumps(["b"] * 5000).encode() + b"}",
    b'{"messages": [{"role": "user"}], "prompt": "a"}',
    b'{"prompt": "a", "' + b"k" * 5000 + b'": 1}',
]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/generate"])
def test_hostile_bodies_are_refused_on_every_path(live, path):
    for raw in HOSTILE:
        status, answer = live.ask(path, raw=raw)
        assert status in (400, 413), (raw[:60], answer)
        assert len(json.dumps(answer)) < 3000
    assert live.ask("/v1/completions", raw=b'{"prompt": "\\ud800 a", "max_tokens": 2, "echo": true}')[0] == 200
    assert live.ask("/healthz")[0] == 200


def one_client(live, seed, count, failures):
    rng = random.Random(seed)
    for n in range(count):
        kind = rng.choice(["plain", "plain", "stream", "score", "gone", "slow", "hostile", "hostile", "chat"])
        body = {
            "prompt": "Once upon " * rng.randrange(1, 40),
            "max_tokens": rng.randrange(1, 40),
            "n": rng.randrange(1, 3),
        }
        try:
            if kind == "hostile":
                status, answer = live.ask("/v1/completions", raw=rng.choice(HOSTILE))
                ok = status in (400, 413)
            elif kind == "gone":
                client = raw_request(live, {**body, "max_tokens": 200, "stream": n % 2 == 0})
                time.sleep(rng.random() * 0.05)
                client.close()
                ok, answer = True, None
            elif kind == "slow":
                client = raw_request(live, {**body, "stream": True, "logprobs": 5})
                text = b""
                while b"[DONE]" not in text and (part := client.recv(256)):
                    text += part
                    time.sleep(0.001)
                client.close()
                ok, answer = b"[DONE]" in text or b" 429 " in text, text
            elif kind == "chat":
                talk = {"messages": [{"role": "user", "content": body["prompt"]}], "max_tokens": 5}
                status, answer = live.ask("/v1/chat/completions", talk)
                ok = status in (200, 429)
            else:
                more = {"stream": {"stream": True}, "score": {"echo": True, "logprobs": 1, "max_tokens": 0}}.get(
                    kind, {}
                )
                status, answer = live.ask("/v1/completions", {**body, **more})
                ok = status in (200, 429)
        except (OSError, http.client.HTTPException) as error:
            ok, answer = False, repr(error)
        if not ok:
            failures.append((kind, str(answer)[:300]))


def flood(live, clients, each):
    """What went wrong of the requests of many clients, and of one request that is asked again and again meanwhile."""
    failures = []
    same = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0.9, "seed": 5, "logprobs": 2, "echo": True}
    want = live.complete(**same)["choices"]
    threads = [threading.Thread(target=one_client, args=(live, seed, each, failures)) for seed in range(clients)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        status, answer = live.ask("/v1/completions", same)
        if (status == 200 and answer["choices"] != want) or status not in (200, 429):
            failures.append(("same", str(answer)[:300]))
    return failures


def check_after(live, before):
    assert live.idle(60)
    assert live.served.thread.healthy
    assert live.complete(prompt="Once upon a time", max_tokens=8, logprobs=1)["choices"] == before
    text = live.ask("/metrics")[1]
    assert "jaxpt_queue_length 0.0" in text
    assert "jaxpt_slots_busy 0.0" in text


def test_some_clients_at_once_leave_all_slots_free(live):
    before = live.complete(prompt="Once upon a time", max_tokens=8, logprobs=1)["choices"]
    assert flood(live, 8, 3) == []
    check_after(live, before)


@pytest.mark.slow
def test_a_thousand_requests_of_fifty_clients_leave_the_server_as_it_was(live):
    before = live.complete(prompt="Once upon a time", max_tokens=8, logprobs=1)["choices"]
    assert flood(live, 50, 4) == []  # programs are compiled, pools are full
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert flood(live, 50, 20) == []
    check_after(live, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 << 10  # KiB


def test_figures_are_counted(live):
    def figures():
        lines = [line for line in live.ask("/metrics")[1].splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    before = figures()
    live.complete(prompt="Once upon a time", max_tokens=8, n=2)
    live.ask("/v1/completions", {"prompt": 5})
    after = figures()
    gained = lambda name: after[name] - before.get(name, 0)  # noqa: E731
    assert gained("jaxpt_prompt_tokens_total") == 5
    assert gained("jaxpt_generated_tokens_total") == 16
    assert gained('jaxpt_requests_total{route="/v1/completions",status="200"}') == 1
    assert gained('jaxpt_requests_total{route="/v1/completions",status="400"}') == 1
    assert gained("jaxpt_first_token_seconds_count") == 1
    assert gained('jaxpt_request_seconds_count{route="/v1/completions"}') == 2
    assert after["jaxpt_slots"] == 8
