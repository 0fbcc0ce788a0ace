"""`/` is the chat page, under a policy that names what is in it by its digest."""

import base64
import hashlib
import http.client
from importlib import resources

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jaxpt.serving.page import policy


def test_the_page_is_the_packages_file_and_its_policy_holds_its_digests(live):
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    connection.request("GET", "/")
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert (answer.status, answer.getheader("content-type")) == (200, "text/html; charset=utf-8")
    assert page == resources.files("jaxpt.serving").joinpath("chat.html").read_text(encoding="utf-8")
    given = dict(part.split(" ", 1) for part in answer.getheader("content-security-policy").split("; "))
    for name in ("script", "style"):
        content = page.split(f"<{name}>")[1].split(f"</{name}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert given[f"{name}-src"] == f"'sha256-{digest}'"
    assert (given["default-src"], given["connect-src"], given["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert "unsafe" not in answer.getheader("content-security-policy")


def test_a_script_that_was_changed_has_another_policy():
    page = "<style>a</style><script>b</script>"
    assert policy(page) != policy(page.replace("b</script>", "c</script>"))
    assert "script-src 'none'" in policy("<style>a</style>")


def test_what_the_page_asks_is_answered(live):
    talk = [{"role": "user", "content": "Hi"}]
    shared = {"model": "stories", "stream": True, "max_tokens": 5}
    body = {**shared, "messages": talk, "logprobs": True, "top_logprobs": 5}
    assert live.ask("/v1/chat/completions", body)[0] == 200
    assert live.ask("/v1/completions", {**shared, "prompt": "Hi", "logprobs": 5})[0] == 200
    (first, _) = live.ask("/v1/models")[1]["data"]
    assert first["chat_template"] is True
