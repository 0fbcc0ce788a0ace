"""A server of a real tiny model in this process, on a port of its own."""

import contextlib
import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxpt import api
from jaxpt.generation import InferenceEngine
from jaxpt.generation.ends import end_ids
from jaxpt.models.model import Model
from jaxpt.serving.app import make_app
from jaxpt.serving.engine_thread import EngineThread
from jaxpt.serving.figures import Figures
from jaxpt.serving.limits import ServingLimits
from jaxpt.serving.served import ServedModel
from jaxpt.serving.server import HttpServer, bind
from jaxpt.serving.vocabulary import ServedVocabulary

LOCAL = {"127.0.0.1", "localhost"}
TEMPLATE = (
    "{% if tools is defined and tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if m.tool_calls is defined %}{% for c in m.tool_calls %}<tool_call>{{ c.function.arguments.city }}</tool_call>"
    "{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass
class Live:
    """A running server, and the model behind it."""

    port: int
    served: ServedModel
    model: Model

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path, body=None, *, method=None, headers=None, raw=None):
        """Returns (status, JSON or text) of one request by the standard library."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        kind = {"content-type": "application/json"} if data is not None else {}
        connection.request(method or ("GET" if data is None else "POST"), path, data, {**kind, **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(text)
        return answer.status, text.decode()

    def complete(self, **body):
        """Returns the answer of /v1/completions, which must be one."""
        status, answer = self.ask("/v1/completions", {"temperature": 0, **body})
        assert status == 200, answer
        return answer

    def idle(self, seconds=20.0):
        """Waits until no slot is taken and nothing waits; returns whether that came."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.served.thread.busy == 0 and self.served.thread.queued == 0:
                return True
            time.sleep(0.02)
        return False


def with_template(shared: Path, folder: Path) -> Path:
    """A copy of stories260K with a chat template."""
    shutil.copytree(shared / "data/stories260K/hf", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "chat_template": TEMPLATE}))
    return folder


@contextlib.contextmanager
def serving(path, *, token=None, hosts=LOCAL, slots=8, waiting=512, seconds=60.0, body=1 << 20, grace=1.0, length=None):
    """A context with a server of the model at `path`."""
    model = api.load(path)
    engine = InferenceEngine(model.config, model.params, decode=model.tokenizer.decode)
    length = length or model.config.max_positions
    thread = EngineThread(engine, slots=slots, max_length=length, waiting=waiting)
    words = ServedVocabulary(model.tokenizer, end_ids(model), model.config.vocab_size, length)
    served = ServedModel(("stories", "other-name"), thread, words, ServingLimits(body, waiting, seconds), Figures())
    thread.start()
    with listening_to(served, model, token=token, hosts=hosts, grace=grace) as made:
        yield made


@contextlib.contextmanager
def listening_to(served, model, *, token=None, hosts=LOCAL, grace=1.0):
    """A context with a server of what is served, whose thread has begun."""
    listening = bind("127.0.0.1", 0)
    server = HttpServer(make_app(served, token, hosts), listening, served.thread, grace)
    up = threading.Event()
    running = threading.Thread(target=server.run, args=(up.set,), daemon=True)
    running.start()
    assert up.wait(60)
    try:
        yield Live(listening.getsockname()[1], served, model)
    finally:
        server.stop()
        running.join(30)
        assert not running.is_alive()


def live_model(shared: Path, tmp_path_factory) -> Iterator[Live]:
    """What the fixture `live` of a module yields."""
    with serving(with_template(shared, tmp_path_factory.mktemp("served") / "stories")) as made:
        yield made
