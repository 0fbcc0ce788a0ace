"""`jaxpt serve` as a process: its first line, its mistakes in a line, its stop."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxpt import cli
from jaxpt.commands import serve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stories(shared):
    return str(shared / "data/stories260K/hf")


def started(*arguments):
    command = [sys.executable, "-m", "jaxpt", "serve", "--port=0", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    made = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    line = made.stdout.readline()
    port = re.search(r"at http://127\.0\.0\.1:(\d+) ", line)
    assert port, line + made.stderr.read()
    return made, int(port[1]), line


def post(port, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_signal_stops_it_after_the_requests_that_run(stories):
    made, port, line = started(f"--model={stories}", "--name=mine", "--slots=1", "--grace=20", "--max_length=512")
    try:
        assert line.startswith("jaxpt serve: mine at http://")
        assert "1 slots of 512 tokens" in line
        answers = {}
        options = {"prompt": "Once", "max_tokens": 480, "temperature": 0, "ignore_eos": True}
        ask = lambda n: answers.setdefault(n, post(port, options))  # noqa: E731
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
        for t in threads:
            t.start()
        until = time.monotonic() + 60
        while "jaxpt_slots_busy 1.0" not in _text(port, "/metrics"):
            assert time.monotonic() < until
            time.sleep(0.01)
        made.send_signal(signal.SIGTERM)
        for t in threads:
            t.join(60)
        codes = sorted(status for status, _ in answers.values())
        assert codes[0] == 200  # what ran has finished
        assert codes[-1] == 503  # what waited is refused
        assert {a["error"]["code"] for s, a in answers.values() if s == 503} == {"stopping"}
        assert all(a["usage"]["completion_tokens"] == 480 for s, a in answers.values() if s == 200)
        assert made.wait(30) == 0
        error = made.stderr.read()
        assert "SIGTERM: running requests have 20 s" in error
        assert "Traceback" not in error
    finally:
        made.kill()
        made.wait()


def _text(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read().decode()


def test_ctrl_c_stops_an_idle_one_at_once(stories):
    made, port, _ = started(f"--model={stories}")
    try:
        assert json.loads(_text(port, "/healthz")) == {"status": "ok"}
        made.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert made.wait(30) == 0
        assert time.monotonic() - begun < 10
        assert "stopped" in made.stderr.read()
    finally:
        made.kill()
        made.wait()


def test_mistakes_are_one_line(stories, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXPT_TOKEN", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "short").write_text("abc\n")
        (tmp_path / "empty").write_text("\n")
        cases = {
            (f"--port={port}",): f"--port={port}: Address already in use; choose another port",
            ("--host=0.0.0.0",): "--host=0.0.0.0 can be reached by others: give a token",
            ("--host=no.such.invalid", f"--token_file={tmp_path / 'short'}"): "a token has at least 16",
            (f"--token_file={tmp_path / 'empty'}",): "is empty",
            (f"--token_file={tmp_path / 'none'}",): "none",
            ("--slots=0",): "--slots=0 must be at least 1",
            ("--port=70000",): "--port=70000 must be from 0 to 65535",
            ("--name=,",): "--name=, names nothing",
            ("--timeout=-1",): "--timeout=-1.0 must be seconds",
            ("--max_length=513", "--port=0"): "more than the model's 512 positions",
        }
        for arguments, words in cases.items():
            assert cli.main(["serve", f"--model={stories}", *arguments]) == 1, arguments
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("jaxpt serve: ")
            assert words in line


def test_without_its_extra_it_names_it(stories, capsys, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    assert cli.main(["serve", f"--model={stories}"]) == 1
    assert capsys.readouterr().err == "jaxpt serve: jaxpt serve needs the library uvicorn: pip install 'jaxpt[serve]'\n"


def test_a_wider_host_with_a_token_answers_to_other_names(stories, monkeypatch):
    monkeypatch.setenv("JAXPT_TOKEN", "a-token-of-enough-letters")
    made = serve._token(serve.argparse.Namespace(token_file=None, host="0.0.0.0"))
    assert made == "a-token-of-enough-letters"
