"""A server of `jaxpt serve` under clients, beside its engine called directly: `python -m benchmarks.serve MODEL`.

Clients on this machine ask greedy completions of `--tokens` new tokens after prompts of 16 ids, each the next when it
has its answer, `--requests` in all. Printed: requests and new tokens a second, the median and 95 % of a request's
latency; tokens a second of the same requests given to `InferenceEngine.generate`, as many at once as there are clients;
and the ratio to that. The two take turns, medians of `--runs`. The server is a process of its own on a free port of
127.0.0.1, has compiled before the first turn, and is stopped at the end; a request of more than `--timeout` seconds
ends all.
"""

import argparse
import http.client
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from jaxpt import api
from jaxpt.generation import InferenceEngine, Request
from jaxpt.models.compute import Compute

LENGTH, STARTING = 16, 600  # tokens of a prompt; seconds in which a server has read and compiled its model


class Turn(NamedTuple):
    """One turn of the server: seconds in all, and of each request."""

    seconds: float
    latencies: list[float]


@contextmanager
def server(flags: Sequence[str]) -> Iterator[int]:
    """The port of a running server, stopped at the block's end."""
    command = [sys.executable, "-m", "jaxpt", "serve", "--port=0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    overdue = threading.Timer(STARTING, process.kill)
    overdue.start()
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        overdue.cancel()
        yield int(found[1])
    finally:
        overdue.cancel()
        process.terminate()
        process.wait(60)


def ask(port: int, prompt: list[int], new: int, timeout: float) -> None:
    """Has one prompt continued by all of its tokens."""
    body = {"prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    if answer.get("usage", {}).get("completion_tokens") != new:
        raise RuntimeError(f"no completion of {new} tokens: {str(answer)[:200]}")


def under_clients(port: int, prompts: list[list[int]], new: int, clients: int, timeout: float) -> Turn:
    """All prompts, asked by so many clients."""
    waiting: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for prompt in prompts:
        waiting.put(prompt)
    latencies: list[float] = []
    failed: list[Exception] = []

    def client() -> None:
        while not failed:
            try:
                prompt = waiting.get_nowait()
                begun = time.perf_counter()
                ask(port, prompt, new, timeout)
                latencies.append(time.perf_counter() - begun)
            except queue.Empty:
                return
            except Exception as error:  # shown below, in the main thread
                failed.append(error)

    begun, threads = time.perf_counter(), [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"a request failed: {failed[0]}")
    return Turn(time.perf_counter() - begun, latencies)


def main() -> None:
    """Measures and prints a row for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundle, run, checkpoint or Hugging Face directory")
    parser.add_argument("--clients", default="1,8", help="one row each")
    parser.add_argument("--requests", type=int, default=32, help="of a turn")
    parser.add_argument("--tokens", type=int, default=32, help="new ones of a request")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds of a request")
    args = parser.parse_args()
    model = api.load(args.model)
    engine = InferenceEngine(model.config, model.params, Compute(dtype=args.dtype), slots=args.slots)
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, model.config.vocab_size, (args.requests, LENGTH)).tolist()
    asked, total = [Request(p, args.tokens) for p in prompts], args.requests * args.tokens
    flags = [f"--model={args.model}", f"--slots={args.slots}", f"--max_length={LENGTH + args.tokens}"]
    print(f"{args.requests} requests of {LENGTH} + {args.tokens} tokens, {args.slots} slots, medians of {args.runs}")
    print("clients requests/s  tokens/s  median s  95 % s   engine  ratio load")
    with server([*flags, f"--dtype={args.dtype}"]) as port:
        under_clients(port, prompts[: args.slots], args.tokens, args.slots, args.timeout)
        engine.generate(asked[: args.slots])
        for clients in map(int, args.clients.split(",")):
            turns, direct = [], []
            for _ in range(args.runs):
                turns.append(under_clients(port, prompts, args.tokens, clients, args.timeout))
                begun = time.perf_counter()
                for first in range(0, len(asked), clients):
                    engine.generate(asked[first : first + clients])
                direct.append(time.perf_counter() - begun)
            seconds, alone = statistics.median(t.seconds for t in turns), statistics.median(direct)
            half, most = np.percentile([x for t in turns for x in t.latencies], [50, 95])
            print(
                f"{clients:7} {args.requests / seconds:10.2f} {total / seconds:9.1f} {half:9.3f} {most:7.3f} "
                f"{total / alone:8.1f} {alone / seconds:6.2f} {os.getloadavg()[0]:.1f}"
            )


if __name__ == "__main__":
    main()
