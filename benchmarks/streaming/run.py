"""What the front costs per token: real Triton, a double for the LLM that gives one id each PAUSE_MS.

For answers of 64 to 4096 tokens, streamed by the front: the processor time of the front's process per token, medians.
The last line is that of the longest answer divided by that of the shortest: 1 is flat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient

from generator.server import Server, running
from tests.parity.client import strings, tensor
from tests.server.sampled_answers import transformers_tokenizer
from tests.server.text_repository import FAMILIES, build, front

LENGTHS = (64, 256, 1024, 4096)
FAMILY = "llama2"
PAUSE_MS = 0.5
TOKENS_AT_LEAST = 1024  # per measurement
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


def front_process(repository: Path) -> int:
    """Process id of the front."""
    place = f"{repository}/{front(FAMILY)}/"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if place in (folder / "cmdline").read_text() and "python_backend_stub" in (folder / "cmdline").read_text():
                return int(folder.name)
    raise RuntimeError("the front's process is not there")


def processor_seconds(process: int) -> float:
    """Processor time of a process so far, threads that have ended included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server: Server, repository: Path, repetitions: int) -> list[dict[str, float]]:
    encode = transformers_tokenizer(FAMILIES[FAMILY].folder / FAMILIES[FAMILY].tokenizer).encode
    longest = encode(WORDS * (max(LENGTHS) // 10))
    process = front_process(repository)
    client = Client(server.grpc)
    costs: dict[int, list[float]] = {length: [] for length in LENGTHS}
    try:
        for turn in range(repetitions + 1):
            for length in LENGTHS:
                asked = {
                    "text_input": strings([[json.dumps(longest[:length]).encode()]]),
                    "stream": np.array([[True]]),
                    "temperature": np.array([[PAUSE_MS]], np.float32),
                }
                before = processor_seconds(process)
                for _ in range(max(1, TOKENS_AT_LEAST // length)):  # the clock of processes ticks every 10 ms
                    client.seconds(front(FAMILY), asked)
                tokens = length * max(1, TOKENS_AT_LEAST // length)
                if turn:  # the first warms up
                    costs[length].append((processor_seconds(process) - before) * 1e6 / tokens)
    finally:
        client.close()
    return [{"tokens": length, "front_us": statistics.median(values)} for length, values in costs.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = build(Path(folder, "repository"), [FAMILY], most=1)
        with running(repository) as server:
            rows = measure(server, repository, options.repetitions)
    print(f"{'tokens':>7} {'front, us/token':>16}")
    for row in rows:
        print(f"{row['tokens']:>7} {row['front_us']:>16.0f}")
    ratio = rows[-1]["front_us"] / rows[0]["front_us"]
    if options.output:
        facts = {"machine": platform.processor() or platform.machine(), "date": time.strftime("%Y-%m-%d")}
        options.output.write_text(json.dumps({**facts, "rows": rows, "ratio": ratio}, indent=2) + "\n")
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
