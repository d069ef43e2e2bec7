"""What the server counts, and how Prometheus reads it. Counting is plain arithmetic; the library loads when asked."""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Histogram:
    """Counts up to each edge, and beyond the last."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges, self.counts, self.total = edges, [0] * (len(edges) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.edges, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus has them."""
        out, sum_ = [], 0
        for edge, count in zip([*map(str, self.edges), "+Inf"], self.counts, strict=True):
            sum_ += count
            out.append((edge, float(sum_)))
        return out


class Counters:
    """Written on the event loop, but for what the watcher counts; a number that is read while it changes is either."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.latency: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(SECONDS))
        self.batches = Histogram(BATCHES)
        self.in_flight = 0
        self.swaps: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.store_errors = 0
        self.copies_dropped = 0

    def answered(self, task: str, route: str, code: int, seconds: float) -> None:
        self.requests[task, route, code] += 1
        self.latency[task, route].add(seconds)

    def families(self, more: Iterable["Metric"] = ()) -> bytes:
        """The text that Prometheus scrapes; `more`: what others count."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector([*self._own(), *more]))
        return bytes(generate_latest(registry))

    def _own(self) -> list["Metric"]:
        from prometheus_client.core import HistogramMetricFamily

        latency = HistogramMetricFamily(
            "cityloop_request_seconds", "From the request's head to its answer", labels=["task", "route"]
        )
        for labels, histogram in list(self.latency.items()):
            latency.add_metric(list(labels), histogram.buckets(), histogram.total)
        batches = HistogramMetricFamily("cityloop_batch_requests", "Requests that shared a run")
        batches.add_metric([], self.batches.buckets(), self.batches.total)
        requests = {(t, r, str(c)): n for (t, r, c), n in list(self.requests.items())}
        return [
            counter("requests", "Requests answered", ["task", "route", "code"], requests),
            latency,
            batches,
            gauge("in_flight", "Requests under way", [], {(): self.in_flight}),
            counter("swaps", "Pointers followed", ["task"], {(t,): n for t, n in list(self.swaps.items())}),
            counter("refused", "Releases refused", ["task"], {(t,): n for t, n in list(self.refused.items())}),
            counter("store_errors", "Times the store could not be read or written", [], {(): self.store_errors}),
            counter("copies_dropped", "Comparisons left out for want of time", [], {(): self.copies_dropped}),
        ]


class _Collector:
    def __init__(self, families: list["Metric"]) -> None:
        self._families = families

    def collect(self) -> list["Metric"]:
        return self._families


def counter(name: str, about: str, labels: list[str], values: Mapping[Any, float]) -> "Metric":
    """A family that only grows; `values` by the labels' values."""
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"cityloop_{name}", about, labels=labels), values)


def gauge(name: str, about: str, labels: list[str], values: Mapping[Any, float]) -> "Metric":
    """A family that goes up and down."""
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"cityloop_{name}", about, labels=labels), values)


def _filled(family: Any, values: Mapping[Any, float]) -> Any:
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    return family
