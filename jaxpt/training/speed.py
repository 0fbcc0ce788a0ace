"""Throughput and MFU of finished work: tokens, seconds without pauses, and what the devices could have done."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of one JAX device by device_kind, from the vendors' data sheets.
PEAK_FLOPS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153.5e12,  # half a chip: two devices each
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(given: float | None, devices: list) -> tuple[float, str]:
    """Returns the FLOP/s of all `devices` together that MFU divides by, and where the figure comes from.

    Args:
        given: `config.metrics.peak_flops_per_device`, or None.
        devices: the devices of the mesh.
    """
    kind = devices[0].device_kind
    if given:
        return given * len(devices), f"{given:.3g} FLOP/s per device as configured"
    if kind in PEAK_FLOPS:
        return PEAK_FLOPS[kind] * len(devices), f"{PEAK_FLOPS[kind]:.3g} bf16 FLOP/s per {kind}, data sheet"
    measured = _matmul_flops()
    hosts = len({d.process_index for d in devices})
    if devices[0].platform == "cpu":  # simulated devices share the cores
        return measured * hosts, f"{measured:.3g} FLOP/s per host, a float32 matrix product measured at start"
    return measured * len(devices), f"{measured:.3g} FLOP/s per {kind}, a float32 matrix product measured at start"


def convention(frozen: bool = False, fp8: bool = False) -> str:
    """What the MFU counts; `frozen`: an objective of the run reads frozen models; `fp8`: it may multiply in 8 bits."""
    also = ", a forward pass of each frozen model included" if frozen else ""
    also += ", against a peak that is not that of 8-bit products" if fp8 else ""
    return f"model FLOPs of forward and backward, causal attention at half, recomputation not counted{also}"


def _matmul_flops(n: int = 1024) -> float:
    """Best of five float32 products of n × n matrices on the first local device."""
    x = jax.device_put(jnp.ones((n, n), jnp.float32), jax.local_devices()[0])
    product = jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


@dataclass
class Clock:
    """Seconds between two moments at which the device had finished, without pauses (saving, evaluating)."""

    started: float = field(default_factory=time.perf_counter)
    paused: float = 0.0
    waited: float = 0.0  # of which: waiting for the next batch
    steps: int = 0
    warm: bool = False

    def lap(self, tokens_per_step: int, flops_per_token: float, peak: float) -> dict[str, float | bool]:
        """Returns the lap's speed and begins the next one; call it only when the device has finished.

        The first lap of a process or stage holds the compilation and is labelled `perf/warmup`.
        """
        now = time.perf_counter()
        seconds = max(now - self.started - self.paused, 1e-9)
        rate = self.steps * tokens_per_step / seconds
        out: dict[str, float | bool] = {
            "perf/tokens_per_s": rate,
            "perf/mfu": rate * flops_per_token / peak,
            "perf/step_s": seconds / max(self.steps, 1),
            "perf/data_wait_s": self.waited / max(self.steps, 1),
        }
        if not self.warm:
            out["perf/warmup"] = True
        self.started, self.paused, self.waited, self.steps, self.warm = now, 0.0, 0.0, 0, True
        return out

    @contextlib.contextmanager
    def pause(self, pending: object = ()) -> Iterator[None]:
        """Leaves what is done inside out of the lap; `pending` device work is waited for first."""
        jax.block_until_ready(pending)
        start = time.perf_counter()
        yield
        self.paused += time.perf_counter() - start

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """Counts what is done inside as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def cold(self) -> None:
        """The next lap holds a compilation again."""
        self.started, self.paused, self.waited, self.steps, self.warm = time.perf_counter(), 0.0, 0.0, 0, False
