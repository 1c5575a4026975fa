"""What preprocessing counts. A refusal counts under the reason of its RequestError, a defect of ours as internal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from metrics import Metrics
from tensors import REASONS, RequestError

COUNTERS = {
    "prompts_total": "Rows of requests that were prepared for the language model",
    "prompt_tokens_total": "Token ids of those prompts, image positions included",
    "image_rows_total": "Rows of the prompt table, or features, that those prompts refer to",
    "images_decoded_total": "Images and videos that were decoded, by the input they came in",
    "image_decode_us_total": "Microseconds spent on fetching and decoding them, by the input they came in",
    "tokenize_us_total": "Microseconds spent on making prompts",
    "requests_refused_total": "Requests that were answered with an error, by reason",
}
BY_LABEL = ("images_decoded_total", "image_decode_us_total", "requests_refused_total")
INTERNAL = "internal"


class Counts(Metrics):
    def __init__(self, model: str) -> None:
        """`model` is Triton's name of the step."""
        super().__init__(model, COUNTERS)
        for name in COUNTERS:
            if name not in BY_LABEL:
                self.add(name, 0)
        for reason in (*REASONS, INTERNAL):
            self.add("requests_refused_total", 0, reason=reason)
        self.flush()

    def refused(self, error: Exception) -> None:
        reason = error.reason if isinstance(error, RequestError) else INTERNAL
        self.add("requests_refused_total", reason=reason)

    @contextmanager
    def timed(self, name: str, **labels: str) -> Iterator[None]:
        """Adds the microseconds that the block takes, also when it fails."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter_ns() - start) // 1000, **labels)
