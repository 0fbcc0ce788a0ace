"""The chat page, in a browser against a server that answers as OpenAI's does; and what must not be in its source."""

import base64
import hashlib
import json
import math
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import jaxpt
from tests.serving.browser import CHROMIUM, chromium

PAGE = Path(jaxpt.__file__).parent / "serving" / "chat.html"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def content_of(name):
    return re.findall(rf"<{name}[^>]*>(.*?)</{name}>", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def policy():
    def digest(name):
        return base64.b64encode(hashlib.sha256(content_of(name)[0].encode()).digest()).decode()

    script, style = f"script-src 'sha256-{digest('script')}'", f"style-src 'sha256-{digest('style')}'"
    return f"default-src 'none'; {script}; {style}; connect-src 'self'; base-uri 'none'; form-action 'none'"


def pieces(text):
    """Tokens of three bytes: characters of more than one byte are cut apart."""
    raw = text.encode()
    return [raw[i : i + 3] for i in range(0, len(raw), 3)]


class Answers(BaseHTTPRequestHandler):
    """Answers as the server's `does` says, with tokens of three bytes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _send(self, body, kind="application/json", status=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _let_in(self):
        wanted = self.server.does.get("token")
        if wanted and self.headers.get("Authorization") != f"Bearer {wanted}":
            self._send({"error": {"message": "no token"}}, status=401)
            return False
        return True

    def do_GET(self):
        if self.path == "/":
            csp = {"Content-Security-Policy": policy()}
            return self._send(PAGE.read_bytes(), "text/html; charset=utf-8", **csp)
        if not self._let_in():
            return None
        if self.path == "/v1/models":
            model = {"id": "tiny-model", "object": "model", "chat_template": self.server.does.get("template", True)}
            return self._send({"object": "list", "data": [model]})
        return self._send({"error": {"message": "not found"}}, status=404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        if not self._let_in():
            return
        does = self.server.does
        if "refuse" in does:
            status, message = does["refuse"]
            return self._send({"error": {"message": message}}, status=status)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self._stream(does, chat=self.path == "/v1/chat/completions")
        except OSError:
            self.server.gone.set()  # the page has closed the connection

    def _stream(self, does, chat):
        held = b""
        tokens = pieces(does["text"])
        for i, raw in enumerate(tokens):
            held += raw
            try:
                text, held = held.decode(), b""
            except UnicodeDecodeError:
                text = ""  # as a server does: half a character waits for its other half
            self._event({"choices": [self._choice(raw, text, chat)]})
            if i == does.get("breaks"):
                return
            time.sleep(does.get("pause", 0))
        end = {"delta": {}} if chat else {"text": ""}
        self._event({"choices": [{"index": 0, **end, "finish_reason": does.get("reason", "stop")}]})
        self._event("[DONE]")

    def _choice(self, raw, text, chat):
        name, share = raw.decode(errors="replace"), 0.9 if raw.isalpha() else 0.05
        others = [("zzz", 0.04), ("other", 0.02)]
        if not chat:
            top = {name: math.log(share)} | {n: math.log(p) for n, p in others}
            logprobs = {"tokens": [name], "token_logprobs": [math.log(share)], "top_logprobs": [top]}
            return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None}
        top = [{"token": n, "logprob": math.log(p), "bytes": list(n.encode())} for n, p in [(name, share), *others]]
        entry = {"token": name, "logprob": math.log(share), "bytes": list(raw), "top_logprobs": top}
        delta = {"role": "assistant", "content": text}
        return {"index": 0, "delta": delta, "logprobs": {"content": [entry]}, "finish_reason": None}

    def _event(self, event):
        data = event if isinstance(event, str) else json.dumps(event)
        self.wfile.write(f"data: {data}\r\n\r\n".encode())
        self.wfile.flush()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.daemon_threads = True
    made.does, made.asked, made.gone = {"text": "Hello there"}, [], threading.Event()
    made.url = f"http://127.0.0.1:{made.server_address[1]}/"
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def page(browser, server):
    """The page, connected; at the end it has complained about nothing."""
    browser.console.clear()
    browser.screen(width=1000, height=800, dark=False)
    browser.go(server.url)
    browser.wait("at('what').textContent !== 'connecting …'")
    yield browser
    browser.call("Page.navigate", url="about:blank")
    faults = [c for c in browser.console if "favicon" not in c and "status of" not in c]
    assert not faults, faults


def send(page, text, *, wait=True):
    page.run("at('input').focus()")
    page.type(text)
    page.press("Enter")
    if wait:
        page.wait("writing === null && turns.length")


ANSWER = "[...document.querySelectorAll('.answer .text')].at(-1).textContent"


@needs_chromium
def test_a_conversation_is_asked_for_and_shown_with_its_probabilities(page, server):
    page.run("at('system').value = 'Be short.'; at('seed').value = '7'; at('temperature').value = '0'")
    server.does["text"] = "Héllo 你好, <b>world</b>\nnext"
    send(page, "Who?")
    assert page.run(ANSWER) == server.does["text"]
    spans = page.run("[...document.querySelectorAll('.token')].map(s => [s.textContent, s.getAttribute('aria-label')])")
    assert "".join(text for text, _ in spans) == server.does["text"]
    assert ["llo", "llo, 90 %"] in spans
    shades = page.run("[...document.querySelectorAll('.token')].map(s => getComputedStyle(s).backgroundColor)")
    assert len(set(shades)) == 2  # likely and unlikely tokens
    assert all("0.0" in s or "0.7" in s for s in shades), shades
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Content-Type"] == "application/json"
    assert body["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    want = {"stream": True, "logprobs": True, "top_logprobs": 5, "temperature": 0, "seed": 7, "max_tokens": 256}
    assert {k: body[k] for k in want} == want
    send(page, "And?")
    assert [m["role"] for m in server.asked[1][2]["messages"]] == ["system", "user", "assistant", "user"]
    assert server.asked[1][2]["messages"][2]["content"] == server.does["text"]
    assert "The model has written: Héllo" in page.run("at('status').textContent")


@needs_chromium
def test_what_a_model_writes_is_text_and_runs_nothing(page, server):
    server.does["text"] = HOSTILE
    for plain in (False, True):
        page.run(f"at('continue').checked = {json.dumps(plain)}; mode()")
        send(page, HOSTILE)
        assert page.run(ANSWER) == (HOSTILE if plain else "") + HOSTILE
        page.run("document.querySelector('.token').focus()")
    server.does = {"refuse": (400, HOSTILE)}
    send(page, "again")
    assert HOSTILE in page.run("at('fault').textContent")
    assert page.run("document.querySelectorAll('img, script').length") == 1  # the page's own script
    assert page.run("document.title") == "tiny-model"


@needs_chromium
def test_the_policy_would_stop_a_script_that_came_in(browser, server):
    """The text test above can fail: what it looks for happens where text is inserted as HTML and no policy stands."""
    browser.go(server.url)
    browser.wait("at('what').textContent !== 'connecting …'")
    insert = f"document.body.insertAdjacentHTML('beforeend', {json.dumps(HOSTILE)})"
    browser.run(insert)
    time.sleep(0.3)
    assert browser.run("document.querySelectorAll('img').length") == 1
    assert browser.run("document.title") == "tiny-model"
    browser.go("data:text/html,<title>before</title><body>")
    browser.run(insert)
    browser.wait("document.title === 'taken'")


@needs_chromium
def test_alternatives_are_shown_by_keyboard_by_touch_and_by_mouse(page, server):
    send(page, "Hi")
    tip = "at('tip').hidden ? '' : [...at('tip').children].map(c => c.textContent).join('|')"
    page.run("document.querySelector('.token[tabindex=\"0\"]').focus()")
    assert page.run(tip) == "Hel90 %(taken)|zzz4.0 %|other2.0 %|all others: 4.0 %"
    page.press("ArrowRight")
    assert page.run("document.activeElement.textContent") == "lo "
    assert page.run("document.activeElement.getAttribute('aria-describedby')") == "tip"
    assert page.run("document.activeElement.getAttribute('aria-label')") == "lo␣, 5.0 %"
    assert page.run("document.querySelectorAll('.token[tabindex=\"0\"]').length") == 1
    page.press("Escape")
    assert page.run(tip) == ""
    box = page.run(
        "(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelectorAll('.token')[2].getBoundingClientRect())"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    page.wait("!at('tip').hidden")
    assert page.run(tip).startswith("the90 %")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=300)
    page.wait("at('tip').hidden")
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": box[0], "y": box[1]}])
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait("!at('tip').hidden")
    page.run("at('shades').click()")
    assert page.run("document.querySelectorAll('.token').length") == 0
    assert page.run(ANSWER) == "Hello there"
    page.run("at('shades').click()")
    assert page.run("document.querySelectorAll('.token').length") == 4


@needs_chromium
def test_stop_ends_the_request_and_retry_edit_and_clear_do_what_they_say(page, server):
    server.does = {"text": "abc" * 2000, "pause": 0.02}
    send(page, "long", wait=False)
    page.wait("document.querySelectorAll('.token').length > 3")
    page.run("at('stop').click()")
    page.wait("writing === null")
    assert server.gone.wait(10)
    assert "stopped by you" in page.run("document.querySelector('.answer .note').textContent")
    server.does = {"text": "short", "reason": "length"}
    page.run("at('retry').click()")
    page.wait("writing === null")
    assert page.run(ANSWER) == "short"
    assert page.run("document.querySelectorAll('article').length") == 2
    assert "limit of tokens" in page.run("document.querySelector('.answer .note').textContent")
    page.run("at('edit').click()")
    assert page.run("[at('input').value, turns.length, document.querySelectorAll('article').length]") == ["long", 0, 0]
    page.press("Enter")
    page.wait("writing === null && turns.length === 2")
    page.run("at('clear').click()")
    assert page.run("[turns.length, at('log').children.length, at('retry').disabled]") == [0, 0, True]


@needs_chromium
def test_a_model_without_a_template_continues_text(browser, server):
    server.does |= {"template": False, "text": " upon a time"}
    browser.go(server.url)
    browser.wait("at('what').textContent === 'continues text'")
    send(browser, "Once")
    assert browser.run(ANSWER) == "Once upon a time"
    assert browser.run("document.querySelectorAll('.token').length") == 4
    path, _, body = server.asked[0]
    assert path == "/v1/completions"
    assert (body["prompt"], body["logprobs"], body["stream"]) == ("Once", 5, True)
    assert "messages" not in body
    browser.run("document.querySelector('.token').focus()")
    assert browser.run("at('tip').textContent").startswith("␣up5.0 %(taken)zzz4.0 %")
    shown = (
        "[...document.querySelectorAll('article')].filter(a => !a.hidden).map(a => a.querySelector('.text').innerText)"
    )
    for answer in ({"text": " more"}, {"refuse": (403, "the Host header is wrong")}):
        server.does = {"template": False, **answer}
        browser.run("at('retry').click()")
        browser.wait("writing === null")
        assert browser.run(shown) == [f"Once{answer.get('text', '')}"]  # the text stands there once, answered or not
        assert server.asked[-1][2]["prompt"] == "Once"
    assert browser.run("at('fault').textContent") == "The server refuses this: the Host header is wrong"
    assert browser.run("at('access').hidden")
    browser.run("at('edit').click()")
    assert browser.run("[at('input').value, document.querySelectorAll('article').length]") == ["Once", 0]


@needs_chromium
def test_a_token_is_asked_for_and_sent(browser, server):
    server.does["token"] = "secret"
    browser.go(server.url)
    browser.wait("!at('access').hidden")
    assert "asks for an access token" in browser.run("at('fault').textContent")
    for word, good in (("wrong", False), ("secret", True)):
        browser.run("at('token').focus()")
        browser.type(word)
        browser.press("Enter")
        browser.wait(
            "at('access').hidden && at('name').textContent === 'tiny-model'"
            if good
            else "/not accept/.test(at('fault').textContent)"
        )
    send(browser, "Hi")
    assert server.asked[0][1]["Authorization"] == "Bearer secret"
    assert browser.run(ANSWER) == "Hello there"


@needs_chromium
@pytest.mark.parametrize(
    ("does", "said"),
    [
        ({"refuse": (429, "the queue is full")}, "The server is busy; retry in a moment. the queue is full"),
        ({"refuse": (400, "max_tokens=9 is too many")}, "The server refuses this: max_tokens=9 is too many"),
        ({"refuse": (500, "out of memory")}, "The server failed (500). out of memory"),
        ({"text": "half an answer", "breaks": 2}, "The answer broke off before its end."),
    ],
)
def test_faults_are_said_in_plain_words_and_the_question_stays(page, server, does, said):
    server.does = does
    send(page, "Hi")
    page.wait("!at('fault').hidden")
    assert page.run("at('fault').textContent") == said
    server.does = {"text": "well"}
    page.run("at('retry').click()")
    page.wait("writing === null && at('fault').hidden && turns.length === 2")
    assert page.run(ANSWER) == "well"


@needs_chromium
def test_the_page_talks_to_the_server_itself(browser, request):
    pytest.importorskip("jaxpt.serving.page", reason="the server is not here")
    live = request.getfixturevalue("live")
    browser.console.clear()
    browser.go(f"{live.url}/")
    browser.wait("connected && at('what').textContent === 'conversation'")
    browser.run("at('max_tokens').value = '24'; at('temperature').value = '0'")
    send(browser, "Once upon a time")
    said = browser.run(ANSWER)
    asked = {"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 24, "temperature": 0}
    status, answer = live.ask("/v1/chat/completions", {**asked, "logprobs": True, "top_logprobs": 5})
    assert status == 200
    assert said == answer["choices"][0]["message"]["content"]
    first = answer["choices"][0]["logprobs"]["content"][0]
    share = 100 * math.exp(first["logprob"])
    label = browser.run("document.querySelector('.token').getAttribute('aria-label')")
    assert label.endswith(f", {share:.1f} %" if share < 10 else f", {share:.0f} %")
    assert browser.run("document.querySelectorAll('.token').length") == 24
    browser.run("at('max_tokens').value = '100000'; at('retry').click()")
    browser.wait("writing === null && !at('fault').hidden")
    assert "The server refuses this" in browser.run("at('fault').textContent")
    browser.run("at('max_tokens').value = '400'; at('retry').click()")
    browser.wait("document.querySelectorAll('.answer:last-child .token').length > 3")
    browser.run("at('stop').click()")
    browser.wait("writing === null")
    assert live.idle()
    assert not [c for c in browser.console if "status of" not in c]


@needs_chromium
def test_a_wrong_setting_is_shown_where_it_is_and_nothing_is_asked(page, server):
    page.run("at('temperature').value = '9'")
    send(page, "Hi")
    assert page.run("[at('panel').open, document.activeElement.id]") == [True, "temperature"]
    assert not server.asked


@needs_chromium
def test_nothing_lies_outside_a_phone_or_is_too_faint(page, server):
    server.does["text"] = "averyveryverylongword" * 20 + "\n" + "x " * 80
    for dark in (False, True):
        page.screen(width=390, height=844, dark=dark, phone=True)
        send(page, "Tell me " + "w" * 300)
        page.run("at('panel').open = true; document.querySelectorAll('.token')[5].focus()")
        assert page.run("document.documentElement.scrollWidth") <= 390
        tops = "['send', 'retry', 'edit', 'clear'].map(id => at(id).getBoundingClientRect().top)"
        assert len(set(page.run(tops))) == 1  # in one row, also under the longer name
        page.run("at('send').textContent = 'Continue'")
        assert len(set(page.run(tops))) == 1
        assert page.run("(b => b.left >= 0 && b.right <= 390)(at('tip').getBoundingClientRect())")
        colors = page.run(
            "[document.body, at('clear'), document.querySelector('.note'), at('send')]"
            ".map(e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor])"
        )
        assert all(contrast(*pair) >= 4.5 for pair in colors), colors
        shade = page.run("getComputedStyle([...document.querySelectorAll('.token')].at(-1)).backgroundColor")
        *warm, strength = (float(p) for p in re.findall(r"[\d.]+", shade.removeprefix("color(srgb")))
        back = [int(p) for p in re.findall(r"\d+", colors[0][1])]
        under = [round(255 * w * strength + b * (1 - strength)) for w, b in zip(warm, back)]
        assert strength > 0.7
        assert contrast(colors[0][0], f"rgb{tuple(under)}") >= 4.5


def contrast(a, b):
    """WCAG's ratio of two colours `rgb(r, g, b)`."""

    def light(color):
        parts = [int(p) / 255 for p in re.findall(r"\d+", color)[:3]]
        parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


FORBIDDEN = {
    "HTML from text": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment",
    "code from text": r"\beval\s*\(|new Function|setTimeout\s*\(\s*[\"']",
    "another address": r"(https?:)?//[\w.-]+\.\w|\bsrc\s*=|<link|@import|url\(",
    "an inline handler": r"<[^>]*\son\w+\s*=",
    "an inline style": r"<[^>]*\sstyle\s*=|setAttribute\(\s*[\"']style",
}


def test_the_source_has_one_script_one_style_and_nothing_that_a_policy_of_hashes_forbids():
    assert len(content_of("script")) == len(content_of("style")) == 1
    source = PAGE.read_text(encoding="utf-8")
    assert source.count("<script") == source.count("<style") == 1
    for what, pattern in FORBIDDEN.items():
        found = re.search(pattern, source)
        assert not found, f"{what}: {found[0]}"


@pytest.mark.parametrize(
    "bad",
    [
        "x.innerHTML = y",
        "eval (y)",
        '<script src="a.js">',
        "fetch('https://example.org/x')",
        '<b onclick="go()">',
        '<p style="color: red">',
    ],
)
def test_a_forbidden_thing_would_be_noticed(bad):
    assert any(re.search(pattern, bad) for pattern in FORBIDDEN.values())
