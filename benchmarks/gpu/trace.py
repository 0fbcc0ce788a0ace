"""A profile of one step as a table: seconds per kind of kernel, and what the device waited."""

import collections
import glob
import gzip
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

# The first word that a kernel's name holds, in this order, says its kind.
KINDS = {
    "attention": ("sdpa", "fmha", "flash", "attention", "dot_do_o", "convert_dq", "mosaic_gpu"),
    "matrix product": ("nvjet", "gemm", "xmma", "cutlass", "cublas", "wgmma", "dot"),
    "copy": ("memcpy", "copy", "dynamic_update_slice", "dynamic_slice"),
    "fill": ("memset", "broadcast", "iota"),
    "conversion": ("convert",),
    "reduction": ("reduce", "softmax", "norm"),
    "scatter, gather, sort": ("scatter", "gather", "sort"),
    "collective": ("nccl", "all_reduce", "all-reduce", "all_gather"),
    "elementwise": ("fusion", "loop", "add", "multiply", "select", "concatenate", "slice", "transpose"),
}


def kind_of(kernel: str) -> str:
    """Returns the kind of a kernel by its name."""
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "other")


def profiled(call: Callable[[], Any]) -> list[dict[str, Any]]:
    """Returns the device's events of one call, as the profiler writes them."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        files = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
        return device_events(json.loads(gzip.decompress(Path(files[0]).read_bytes()))) if files else []


def device_events(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the events that ran on a device: of its streams, not of lines that group them."""
    names: dict[tuple[int, int | None], str] = {}
    for event in trace["traceEvents"]:
        if event.get("ph") == "M" and event["name"] in ("process_name", "thread_name"):
            names[event["pid"], event.get("tid") if event["name"] == "thread_name" else None] = event["args"]["name"]
    on_device = {pid for (pid, tid), name in names.items() if tid is None and name.startswith("/device:")}
    return [
        event
        for event in trace["traceEvents"]
        if event.get("ph") == "X"
        and event["pid"] in on_device
        and "Stream" in names.get((event["pid"], event["tid"]), "")
    ]


def summary(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns milliseconds and calls by kind, of the ten longest kernels, and the gaps in which nothing ran."""
    kinds: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
    kernels: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
    spans = []
    for event in events:
        for table, key in ((kinds, kind_of(event["name"])), (kernels, event["name"])):
            table[key][0] += event["dur"] / 1e3
            table[key][1] += 1
        spans.append((event["ts"], event["ts"] + event["dur"]))
    busy, end, begin = 0.0, None, None
    for start, stop in sorted(spans):
        begin = start if begin is None else begin
        busy += max(0.0, stop - (start if end is None else max(start, end)))
        end = stop if end is None else max(end, stop)
    span = (end - begin) / 1e3 if end is not None and begin is not None else 0.0
    by_time = lambda table: dict(sorted(table.items(), key=lambda item: -item[1][0]))  # noqa: E731
    return {
        "span_ms": span,
        "gaps_ms": span - busy / 1e3,
        "kinds": by_time(kinds),
        "kernels": dict(list(by_time(kernels).items())[:10]),
    }
