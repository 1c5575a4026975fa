"""What the ensemble adds: its latency without its steps' compute, and the ensemble beside one process that does it all.

    python -m benchmarks.ensemble.run

Tiny LLaVA on the torch runtime, one request at a time, one thread each. The one process is Hugging Face's processor and
`generate()` on the same checkpoint; both must give the same texts. Overhead of a request is what the client waited,
less the compute that Triton's statistics give the four steps: waiting in queues, passing tensors on, gRPC.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before torch is loaded, here and in the server

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient

from benchmarks import peers
from benchmarks.common import Bars, Goal, arguments, finish, interleaved, machine, median
from benchmarks.load import Request, load, tensors
from benchmarks.preprocessing_step.run import requests
from generator.ask import StepTime, step_times
from generator.oracle import LlavaOracle
from generator.server import running
from tests.checkpoints import cached

GOAL_MS = 3.0
ENSEMBLE = "ensemble"
TOKENS = 16
Answer = dict[str, Any]


def served(client: InferenceServerClient, request: Request) -> Answer:
    """The text, the latency, and each model's time on it, in ms."""
    before = step_times(client)
    begin = time.perf_counter()
    result = client.infer(ENSEMBLE, tensors(request))
    latency = 1e3 * (time.perf_counter() - begin)
    spent = spent_since(before, client)
    whole = spent.pop(ENSEMBLE)
    return {
        "text": result.as_numpy("text_output").reshape(-1)[0].decode(),
        "latency_ms": latency,
        "compute_ms": {name: step.compute_ms for name, step in spent.items()},
        "queue_ms": sum(step.queue_ms for step in spent.values()),
        "overhead_ms": latency - sum(step.compute_ms for step in spent.values()),
        "server_ms": whole.queue_ms + whole.compute_ms,
    }


def spent_since(before: dict[str, StepTime], client: InferenceServerClient) -> dict[str, StepTime]:
    """What each model spent on one request; its statistics may come a little after its answer."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        after = step_times(client)
        spent = {name: after[name] - before[name] for name in after}
        if {one.count for one in spent.values()} == {1}:
            return spent
    raise SystemExit(f"a step was counted other than once for a request: {spent}")


def one_process(oracle: LlavaOracle, request: Request) -> Answer:
    begin = time.perf_counter()
    text, image = request["text_input"][0, 0].decode(), request["image_encoded_input"][0, 0]
    answer = oracle.generate(text, [image], TOKENS)[1]
    return {"text": answer, "latency_ms": 1e3 * (time.perf_counter() - begin)}


def every(sent: list[Request], ask: Callable[[Request], Answer]) -> list[Answer]:
    return [ask(request) for request in sent]


def main() -> None:
    parser = arguments(__doc__, "ensemble")
    chosen: argparse.Namespace = parser.parse_args()
    facts = machine()
    sent = [{**one, "max_tokens": np.array([[TOKENS]], np.int32)} for one in requests((640, 480), 16)]
    oracle = LlavaOracle(cached(peers.MODEL))
    with (
        tempfile.TemporaryDirectory() as folder,
        running(peers.ours(Path(folder) / "ours")) as server,
        InferenceServerClient(server.grpc) as client,
    ):
        sides: dict[str, Callable[[], list[Answer]]] = {
            "ensemble": lambda: every(sent, lambda request: served(client, request)),
            "one process": lambda: every(sent, lambda request: one_process(oracle, request)),
        }
        texts = {side: [answer["text"] for answer in run()] for side, run in sides.items()}  # warms up, too
        if texts["ensemble"] != texts["one process"]:
            raise SystemExit(f"the texts differ: {texts}")
        found = interleaved(sides, chosen.repetitions)
        clients = facts["cores"]
        busy = [load(server.grpc, ENSEMBLE, sent, ["text_output"], clients, 8 * clients) for _ in range(3)]
    answers = {side: [answer for answers in rounds for answer in answers] for side, rounds in found.items()}
    latency = {side: median([one["latency_ms"] for one in rows]) for side, rows in answers.items()}
    parts = ("overhead_ms", "queue_ms", "server_ms")
    ours = {part: median([one[part] for one in answers["ensemble"]]) for part in parts}
    names = answers["ensemble"][0]["compute_ms"]
    steps = {name: median([one["compute_ms"][name] for one in answers["ensemble"]]) for name in names}
    throughput = median([one.per_second for one in busy])
    for name, value in {**latency, **ours, **steps}.items():
        print(f"{name:16} {value:8.2f} ms")
    print(f"{clients} clients at once: {throughput:.2f} requests/s; one process: {1e3 / latency['one process']:.2f}")
    goal = Goal("overhead at concurrency 1", GOAL_MS, ours["overhead_ms"], "ms", most=True)
    ratio = latency["one process"] / latency["ensemble"]
    result = {
        "repetitions": chosen.repetitions,
        "latency_ms": latency,
        **ours,
        "compute_ms": steps,
        "requests_per_s": {"clients": clients, "ensemble": throughput, "one process": 1e3 / latency["one process"]},
    }
    shown = {**steps, "overhead": ours["overhead_ms"]}
    plots = (
        Bars("latency of one request", "ms", list(latency), {"median": list(latency.values())}),
        Bars("where the ensemble's goes", "ms", list(shown), {"median": list(shown.values())}),
    )
    finish(chosen.output, facts, result, [goal], ratio, *plots)


if __name__ == "__main__":
    main()
