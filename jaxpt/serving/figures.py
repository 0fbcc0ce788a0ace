"""What a server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SPACE = "jaxpt"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Figures:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Begins with zeros."""
        at = self._registry = CollectorRegistry()
        self.requests = Counter("requests", "answered requests", ["route", "status"], namespace=SPACE, registry=at)
        self.gone = Counter("requests_cancelled", "requests whose client has gone", namespace=SPACE, registry=at)
        self.prompt_tokens = Counter(
            "prompt_tokens", "tokens of prompts of finished requests", namespace=SPACE, registry=at
        )
        self.generated_tokens = Counter(
            "generated_tokens", "tokens drawn for finished requests", namespace=SPACE, registry=at
        )
        self.seconds = Histogram(
            "request_seconds", "time of a request", ["route"], buckets=SECONDS, namespace=SPACE, registry=at
        )
        self.first_token = Histogram(
            "first_token_seconds", "time to the first token", buckets=SECONDS, namespace=SPACE, registry=at
        )
        self.token = Histogram(
            "token_seconds",
            "time of each token after the first",
            buckets=[s / 10 for s in SECONDS],
            namespace=SPACE,
            registry=at,
        )

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Adds a gauge that is read when it is asked for."""
        Gauge(name, what, registry=self._registry, namespace=SPACE).set_function(value)

    def text(self) -> bytes:
        """Returns all of them in Prometheus' text format."""
        return generate_latest(self._registry)
