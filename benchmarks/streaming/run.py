"""What the front adds to a stream, per token: real Triton, a double for the LLM that gives its ids as fast as it can.

For answers of 64 to 4096 tokens: the LLM asked alone over gRPC, the same answer streamed by the front, and the same
whole answer by the front (which calls postprocessing). They take turns in each repetition; the table shows medians.
The last line is the front's own time per token of the longest answer, divided by that of the shortest: 1 is flat.
"""

from __future__ import annotations

import argparse
import json
import platform
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient

from generator.server import running
from tests.parity.client import strings, tensor
from tests.server.sampled_answers import transformers_tokenizer
from tests.server.text_repository import FAMILIES, build, front

LENGTHS = (64, 256, 1024, 4096)
FAMILY = "llama2"
WORDS = "The street is wide, and two dogs walk there with 3 people; café naïve 日本語. "


class Client:
    """One stream to the server."""

    def __init__(self, url: str) -> None:
        self._arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client = InferenceServerClient(url)
        self._client.start_stream(lambda result, error: self._arrived.put((result, error)))

    def seconds(self, model: str, inputs: dict[str, Any]) -> float:
        """How long all responses take."""
        request = [tensor(name, values) for name, values in inputs.items()]
        begin = time.perf_counter()
        self._client.async_stream_infer(model, request, request_id="one", enable_empty_final_response=True)
        while True:
            result, error = self._arrived.get(timeout=60)
            if error is not None:
                raise RuntimeError(f"{model}: {error.message()}")
            if result.get_response().parameters["triton_final_response"].bool_param:
                return time.perf_counter() - begin

    def close(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def sides(client: Client, ids: list[int]) -> dict[str, Callable[[], float]]:
    """What is timed, by name."""
    count = np.array([[len(ids)]], np.int32)
    alone = {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": count,
        "request_output_len": count,
        "streaming": np.array([[True]]),
    }
    text = strings([[json.dumps(ids).encode()]])
    return {
        "llm": lambda: client.seconds("tensorrt_llm", alone),
        "streamed": lambda: client.seconds(front(FAMILY), {"text_input": text, "stream": np.array([[True]])}),
        "whole": lambda: client.seconds(front(FAMILY), {"text_input": text}),
    }


def measure(url: str, repetitions: int) -> list[dict[str, float]]:
    encode = transformers_tokenizer(FAMILIES[FAMILY].folder / FAMILIES[FAMILY].tokenizer).encode
    longest = encode(WORDS * (max(LENGTHS) // 10))
    client = Client(url)
    rows = []
    try:
        for length in LENGTHS:
            ids = longest[:length]
            if len(ids) < length:
                raise ValueError(f"the text has {len(ids)} tokens, {length} are needed")
            timed = sides(client, ids)
            times: dict[str, list[float]] = {name: [] for name in timed}
            for turn in range(repetitions + 1):
                for name, once in timed.items():
                    seconds = once()
                    if turn:  # the first warms up
                        times[name].append(seconds)
            found = {name: statistics.median(values) * 1e3 for name, values in times.items()}
            added = (found["streamed"] - found["llm"]) * 1e3 / length
            rows.append({"tokens": length, **{f"{name}_ms": ms for name, ms in found.items()}, "added_us": added})
    finally:
        client.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = build(Path(folder, "repository"), [FAMILY], most=1)
        with running(repository) as server:
            rows = measure(server.grpc, options.repetitions)
    print(f"{'tokens':>7} {'LLM ms':>9} {'streamed ms':>12} {'whole ms':>9} {'front, us/token':>16}")
    for row in rows:
        print(
            f"{row['tokens']:>7} {row['llm_ms']:>9.1f} {row['streamed_ms']:>12.1f} {row['whole_ms']:>9.1f}"
            f" {row['added_us']:>16.0f}"
        )
    ratio = rows[-1]["added_us"] / rows[0]["added_us"]
    if options.output:
        facts = {"machine": platform.processor() or platform.machine(), "date": time.strftime("%Y-%m-%d")}
        options.output.write_text(json.dumps({**facts, "rows": rows, "ratio": ratio}, indent=2) + "\n")
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
