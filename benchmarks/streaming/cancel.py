"""How soon the LLM stops after a client has cancelled its stream: tiny VILA on the torch runtime, a real Triton.

    python -m benchmarks.streaming.cancel

The LLM's process is busy as long as it makes tokens: what is measured is the time from the cancel to the last moment
at which its processor time grew, by a clock that ticks every 10 ms. Half of the cancels come after the first pieces,
half before any.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient

from benchmarks.common import Goal, arguments, finish, machine, median
from benchmarks.streaming.run import process, processor_seconds, vila
from generator.server import running
from tests import photos
from tests.parity.client import strings, tensor

GOAL_MS = 200.0
FRONT = "tensorrt_llm_bls"
TOKENS = 1500
STILL_SECONDS = 0.6  # without growth: it has stopped


def cancelled(url: str, llm: int, *, pieces: int) -> float:
    """Milliseconds from the cancel, after `pieces` pieces, until the LLM rests."""
    arrived: list[Any] = []
    client = InferenceServerClient(url)
    client.start_stream(lambda result, error: arrived.append(error or result))
    asked = {
        "text_input": strings([[b"Tell me about the picture."]]),
        "image_encoded_input": strings([[photos.encoded("china")]]),
        "stream": np.array([[True]]),
        "max_tokens": np.array([[TOKENS]], np.int32),
        "min_tokens": np.array([[TOKENS]], np.int32),
    }
    before = processor_seconds(llm)
    client.async_stream_infer(FRONT, [tensor(name, values) for name, values in asked.items()])
    while len(arrived) < pieces or processor_seconds(llm) - before < 0.02:  # at work
        time.sleep(0.002)
    begin = last = time.perf_counter()
    client.stop_stream(cancel_requests=True)
    used = processor_seconds(llm)
    while time.perf_counter() - last < STILL_SECONDS:
        time.sleep(0.002)
        if (now := processor_seconds(llm)) > used:
            used, last = now, time.perf_counter()
    client.close()
    return 1e3 * (last - begin)


def main() -> None:
    parser = arguments(__doc__, "streaming")
    chosen = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        repository = vila(Path(folder), max_tokens=TOKENS)
        with running(repository) as server:
            llm = process(repository, "tensorrt_llm")
            cancelled(server.grpc, llm, pieces=1)
            found = {
                name: [cancelled(server.grpc, llm, pieces=pieces) for _ in range(2 * chosen.repetitions)]
                for name, pieces in (("before any piece", 0), ("after five pieces", 5))
            }
    for name, values in found.items():
        print(f"cancelled {name}: median {median(values):.0f} ms, longest {max(values):.0f} ms")
    longest = max(max(values) for values in found.values())
    goals = [Goal("longest time from cancel to rest", GOAL_MS, longest, "ms", most=True)]
    finish(chosen.output / "cancel", facts, {"ms": found}, goals, longest / GOAL_MS)


if __name__ == "__main__":
    main()
