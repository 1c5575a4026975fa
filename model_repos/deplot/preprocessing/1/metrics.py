"""Counters of a step on the server's metrics page, beside Triton's own.

Where the server keeps none (--allow-metrics=false, or a Triton whose pb_utils has no MetricFamily) they count nowhere.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import triton_python_backend_utils as pb_utils

PREFIX = "gen_repo_"
Key = tuple[str, tuple[tuple[str, str], ...]]  # a counter's name, and its labels besides the model's


class Metrics:
    """The counters of one model. All its instances share them; any thread may count."""

    def __init__(self, model: str, counters: Mapping[str, str], gauges: Mapping[str, str] | None = None) -> None:
        """`counters`, `gauges`: name, without prefix, -> what it counts. To show one before it counts, add 0."""
        self._model = model
        self._counters = set(counters)
        self._lock = threading.Lock()
        self._telling = threading.Lock()  # two threads that tell at once end the server (Triton 2.51)
        self._pending: Counter[Key] = Counter()
        self._metrics: dict[Key, Any] = {}
        kinds = ((counters, "COUNTER"), (gauges or {}, "GAUGE"))
        self._families = {name: _family(name, text, kind) for names, kind in kinds for name, text in names.items()}

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Note `amount` more; `flush` tells the server, which a counter that falls would end (Triton 2.51).

        Raises KeyError for a name that is not of this model, ValueError for a counter that would fall.
        """
        if amount < 0 and name in self._counters:
            raise ValueError(f"{name} cannot fall by {-amount}")
        if self._families[name] is not None:
            with self._lock:
                self._pending[name, tuple(labels.items())] += amount

    def flush(self) -> None:
        """Tell the server what was noted: about 10 us for each number that changed (Triton 2.51).

        Never fails: an answer is worth more than its counting.
        """
        with self._telling:
            with self._lock:
                pending, self._pending = self._pending, Counter()
            with suppress(Exception):
                for key, amount in pending.items():
                    metric = self._metric(key)
                    if amount:
                        metric.increment(amount)

    def _metric(self, key: Key) -> Any:
        name, labels = key
        if key not in self._metrics:
            self._metrics[key] = self._families[name].Metric(labels={"model": self._model, **dict(labels)})
        return self._metrics[key]


def _family(name: str, text: str, kind: str) -> Any:
    """None where the server keeps no metrics."""
    family: Any = getattr(pb_utils, "MetricFamily", None)
    if family is None:
        return None
    try:
        return family(name=PREFIX + name, description=text, kind=getattr(family, kind))
    except pb_utils.TritonModelException:
        return None
