"""What streaming costs beside the LLM, on a real Triton.

    python -m benchmarks.streaming.run

The LLM is a double that gives one id each PAUSE_MS. For answers of 64 to 4096 tokens: the processor time per token of
the front's process while it streams, and of the postprocessing step's for the same answer as a whole; medians. Then a
whole answer of tiny VILA through `ensemble` and through the front, in turn. The last line is the front's cost per token
of the longest answer divided by that of the shortest: 1 is flat.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient

from benchmarks.common import Bars, Goal, arguments, finish, interleaved, machine, median
from generator.generate import generate
from generator.options import Options
from generator.server import Server, running
from tests import photos
from tests.checkpoints import cached
from tests.parity.client import strings, tensor
from tests.server.sampled_answers import transformers_tokenizer
from tests.server.text_repository import FAMILIES, build, front

LENGTHS = (64, 256, 1024, 4096)
FAMILY = "llama2"
PAUSE_MS = 0.5
TOKENS_AT_LEAST = {True: 1024, False: 65536}  # per measurement, streamed or whole: processes' clocks tick every 10 ms
WORDS = "The street is wide, and two dogs walk there with 3 people; café naïve 日本語. "
FLAT = 1.25


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


def process(repository: Path, model: str) -> int:
    """Process id of a Python step."""
    place = f"{repository}/{model}/"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if place in (folder / "cmdline").read_text() and "python_backend_stub" in (folder / "cmdline").read_text():
                return int(folder.name)
    raise RuntimeError(f"the process of {model} is not there")


def processor_seconds(process: int) -> float:
    """Processor time of a process so far, threads that have ended included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def connected(server: Server) -> Iterator[Client]:
    client = Client(server.grpc)
    try:
        yield client
    finally:
        client.close()


def per_token(client: Client, repository: Path, repetitions: int, *, stream: bool) -> list[float]:
    """Microseconds of the step that makes text, for each of LENGTHS."""
    step = process(repository, front(FAMILY) if stream else f"{FAMILY}_postprocessing")
    encode = transformers_tokenizer(FAMILIES[FAMILY].folder / FAMILIES[FAMILY].tokenizer).encode
    longest = encode(WORDS * (max(LENGTHS) // 10))

    def cost(length: int) -> float:
        asked = {
            "text_input": strings([[json.dumps(longest[:length]).encode()]]),
            "stream": np.array([[stream]]),
            "temperature": np.array([[PAUSE_MS if stream else 0]], np.float32),
        }
        times = max(1, TOKENS_AT_LEAST[stream] // length)
        before = processor_seconds(step)
        for _ in range(times):
            client.seconds(front(FAMILY), asked)
        return (processor_seconds(step) - before) * 1e6 / (length * times)

    sides = {str(length): (lambda length=length: cost(length)) for length in LENGTHS}
    interleaved(sides, 1)  # warms up
    return [median(values) for values in interleaved(sides, repetitions).values()]


def vila(folder: Path, max_tokens: int) -> Path:
    """A streaming repository of tiny VILA on the torch runtime."""
    checkpoint = cached("vila")
    options = Options(
        "vila", checkpoint, runtime="torch", output=folder / "vila", streaming=True, max_tokens=max_tokens
    )
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    return outcome.output


def whole_answers(folder: Path, repetitions: int) -> dict[str, float]:
    """Milliseconds of one whole answer of tiny VILA, by the model that was asked."""
    repository = vila(folder, max_tokens=16)
    asked = {
        "text_input": strings([[b"What is in the picture?"]]),
        "image_encoded_input": strings([[photos.encoded("china")]]),
    }
    with running(repository) as server, connected(server) as client:
        models = ("ensemble", "tensorrt_llm_bls")
        sides = {model: (lambda model=model: client.seconds(model, asked)) for model in models}
        interleaved(sides, 3)
        return {model: 1e3 * median(values) for model, values in interleaved(sides, 10 * repetitions).items()}


def main() -> None:
    chosen = arguments(__doc__, "streaming").parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        repository = build(Path(folder, "repository"), [FAMILY], most=1)
        with running(repository) as server, connected(server) as client:
            streamed = per_token(client, repository, chosen.repetitions, stream=True)
            whole = per_token(client, repository, chosen.repetitions, stream=False)
        latency = whole_answers(Path(folder), chosen.repetitions)
    print(f"{'tokens':>7} {'front, us/token':>16} {'postprocessing, us/token':>25}")
    for length, one, other in zip(LENGTHS, streamed, whole, strict=True):
        print(f"{length:>7} {one:>16.0f} {other:>25.1f}")
    print(" · ".join(f"a whole answer through {model}: {value:.1f} ms" for model, value in latency.items()))
    result = {"tokens": LENGTHS, "front_us": streamed, "postprocessing_us": whole, "whole_answer_ms": latency}
    ratio = streamed[-1] / streamed[0]
    goals = [
        Goal("front, per token: longest answer by shortest", FLAT, ratio, most=True),
        Goal("postprocessing, per token: longest answer by shortest", FLAT, whole[-1] / whole[0], most=True),
    ]
    labels = [str(length) for length in LENGTHS]
    plot = Bars("processor time per token", "us", labels, {"front": streamed, "postprocessing": whole})
    finish(chosen.output, facts, result, goals, ratio, plot)


if __name__ == "__main__":
    main()
