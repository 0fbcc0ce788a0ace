"""`jaxpt serve`: a model over HTTP, in OpenAI's protocol."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpt.cli.dispatch import Parser
from jaxpt.errors import JaxptError

if TYPE_CHECKING:
    from jaxpt.serving.engine_thread import EngineThread
    from jaxpt.serving.served import ServedModel

HELP = "serve a model over HTTP: OpenAI's completions and chat, lm_eval, OpenCompass, a chat page"

EPILOG = """\
example:
  jaxpt serve --model=BUNDLE
  jaxpt serve --model=RUN --name=mine --port=8001 --slots=16 --max_length=256 --dtype=bfloat16

Then http://127.0.0.1:8000/ is a chat page, and http://127.0.0.1:8000/v1 the base_url of OpenAI's client. Only this
machine can ask; a --host that others reach needs a token (--token_file, or JAXPT_TOKEN). SIGTERM or Ctrl-C stops it
after the requests that run. docs/serving.md describes routes, keys and limits.
"""
LONGEST = 4096  # tokens of a slot where --max_length is not given: what is held for each slot grows with it
LOCAL = ("127.0.0.1", "localhost", "::1")


def main(argv: Sequence[str]) -> int:
    """Parses arguments, lays the model out, and serves until a signal."""
    parser = Parser("jaxpt serve", HELP, EPILOG)
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="bundle, run, checkpoint or Hugging Face directory"
    )
    parser.add_argument("--name", metavar="A,B,…", help="what clients call the model; default: the path's last part")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; one that others reach needs a token")
    parser.add_argument("--port", type=int, default=8000, help="0: one that is free")
    parser.add_argument("--token_file", metavar="FILE", help="file with the token that clients must send")
    parser.add_argument(
        "--hosts", metavar="A,B,…", help="names that clients may call the server by, beside this machine's own"
    )
    parser.add_argument("--dtype", default="float32", help="compute dtype: float32 or bfloat16")
    parser.add_argument("--mesh", default="", help="over this machine's devices, for instance fsdp=4,tensor=2")
    parser.add_argument("--slots", type=int, metavar="N", help="continuations at once; default: 8 on a CPU, else 64")
    parser.add_argument(
        "--max_length",
        type=int,
        metavar="N",
        help=f"tokens of a prompt and its continuation; default: the model's positions, at most {LONGEST:,}",
    )
    parser.add_argument("--queue", type=int, default=512, metavar="N", help="continuations that may wait")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="that a request may take")
    parser.add_argument("--max_body", type=int, default=8 << 20, metavar="BYTES", help="of a request")
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="SECONDS", help="that running requests have at a stop"
    )
    args = parser.parse_args(list(argv))
    _check(args)
    for module in ("starlette", "uvicorn", "prometheus_client"):
        if find_spec(module) is None:
            raise JaxptError(f"jaxpt serve needs the library {module}: pip install 'jaxpt[serve]'")
    return _serve(args, _token(args))


def _check(args: argparse.Namespace) -> None:
    for name in ("slots", "max_length", "queue", "max_body"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise JaxptError(f"--{name}={getattr(args, name)} must be at least 1")
    for name in ("timeout", "grace"):
        if not 0 <= getattr(args, name) < 1e6:
            raise JaxptError(f"--{name}={getattr(args, name)} must be seconds, at least 0")
    if args.name is not None and not args.name.strip(","):
        raise JaxptError(f"--name={args.name} names nothing; leave it out, and the model is called as its folder")
    if not 0 <= args.port < 65536:
        raise JaxptError(f"--port={args.port} must be from 0 to 65535")


def _token(args: argparse.Namespace) -> str | None:
    """The token, from a file or the environment: a command line is seen by all users of a machine."""
    token = os.environ.get("JAXPT_TOKEN", "")
    where = "JAXPT_TOKEN"
    if args.token_file is not None:
        token, where = Path(args.token_file).read_text(encoding="utf-8"), f"--token_file={args.token_file}"
    token = token.strip()
    if args.token_file is not None and not token:
        raise JaxptError(f"{where} is empty")
    if token and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise JaxptError(f"{where}: a token has at least 16 printable ASCII characters and no spaces")
    if not token and args.host not in LOCAL:
        raise JaxptError(
            f"--host={args.host} can be reached by others: give a token (--token_file=FILE, or JAXPT_TOKEN), "
            f"or listen at 127.0.0.1"
        )
    return token or None


def _serve(args: argparse.Namespace, token: str | None) -> int:
    from jaxpt.serving import server
    from jaxpt.serving.app import make_app

    listening = server.bind(args.host, args.port)  # before the model: a port that is taken costs no loading
    with listening:
        served = _served(args)
        hosts = set(LOCAL) | {args.host.lower()} | {h.lower() for h in (args.hosts or "").split(",") if h}
        app = make_app(served, token, None if token and not args.hosts and args.host not in LOCAL else hosts)
        port = listening.getsockname()[1]
        shown = f"[{args.host}]" if ":" in args.host else args.host
        thread = served.thread

        def ready() -> None:
            print(
                f"jaxpt serve: {', '.join(served.names)} at http://{shown}:{port} ({thread.slots} slots of "
                f"{thread.max_length:,} tokens{', with a token' if token else ''}); Ctrl-C stops it",
                flush=True,
            )

        server.HttpServer(app, listening, thread, args.grace).run(ready)
    print("jaxpt serve: stopped", file=sys.stderr)
    return 0


def _served(args: argparse.Namespace) -> "ServedModel":
    from jaxpt import api
    from jaxpt.generation import InferenceEngine
    from jaxpt.generation.ends import end_ids
    from jaxpt.models.compute import Compute
    from jaxpt.serving.engine_thread import EngineThread
    from jaxpt.serving.figures import Figures
    from jaxpt.serving.limits import ServingLimits
    from jaxpt.serving.served import ServedModel
    from jaxpt.serving.vocabulary import ServedVocabulary
    from jaxpt.sharding.mesh import parse_axes
    from jaxpt.training.config import ShardingConfig
    from jaxpt.training.starting_point import open_start
    from jaxpt.training.state import make_layout

    layout = None
    if args.mesh:
        sharding = ShardingConfig(mesh=parse_axes(args.mesh, "--mesh"))
        layout = make_layout(open_start(args.model, "params", "--model").model, sharding)
    model = api.load(args.model, shardings=None if layout is None else layout.params)
    config, tokenizer = model.config, model.tokenizer
    if tokenizer is None:
        raise JaxptError(f"--model={args.model} has no tokenizer; write the bundle with one")
    if args.max_length is not None and args.max_length > config.max_positions:
        raise JaxptError(f"--max_length={args.max_length} is more than the model's {config.max_positions} positions")
    length = args.max_length or min(config.max_positions, LONGEST)
    ends = end_ids(model)
    engine = InferenceEngine(
        config,
        model.params,
        Compute(dtype=args.dtype),
        decode=tokenizer.decode,
        mesh=None if layout is None else layout.mesh,
        slots=args.slots,
    )
    del model  # the engine has its own copy of the weights
    names = tuple(dict.fromkeys(n for n in (args.name or _last_part(args.model)).split(",") if n))
    thread = EngineThread(engine, slots=engine.slots, max_length=length, waiting=args.queue)
    words = ServedVocabulary(tokenizer, ends, config.vocab_size, length)
    limits = ServingLimits(args.max_body, args.queue, args.timeout)
    _begin(thread, words.first)
    return ServedModel(names, thread, words, limits, Figures())


def _last_part(path: str) -> str:
    return (Path(path).name or Path(path).resolve().name).replace(",", "-")


def _begin(thread: "EngineThread", token: int) -> None:
    """Starts the thread and lets it compile what every request needs, so that the first one does not wait for it."""
    import threading
    import time

    from jaxpt.generation import Request
    from jaxpt.serving.jobs import PromptJob

    over = threading.Event()
    new = min(2, thread.max_length - 1)
    asked = [Request((token,), new, logprobs=0)] if new > 0 else []
    job = PromptJob((token,), asked, 0, time.monotonic() + 3600)
    job.notify = lambda: over.set() if job.over else None
    thread.start()
    thread.submit([job])
    over.wait()
    if job.refusal is not None:
        raise JaxptError(f"the model cannot be run: {job.refusal.message}")
