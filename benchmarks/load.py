"""Clients in a closed loop: each sends its next request when it has the answer to the one before."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

Request = Mapping[str, NDArray[Any]]
CONNECTING = 0.3  # seconds


@dataclass(frozen=True)
class Load:
    """What the clients saw: requests per second, latencies in ms, and how many cores they took themselves."""

    per_second: float
    latencies: tuple[float, ...]
    client_cores: float


def texts(*values: str | bytes) -> NDArray[np.object_]:
    """[1, n] of BYTES."""
    array = np.empty((1, len(values)), dtype=np.object_)
    array[0] = [value.encode() if isinstance(value, str) else value for value in values]
    return array


def tensors(request: Request) -> list[InferInput]:
    made = []
    for name, values in request.items():
        tensor = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        made.append(tensor)
    return made


def load(url: str, model: str, requests: Sequence[Request], outputs: Sequence[str], clients: int, count: int) -> Load:
    """`count` requests in turn by `clients` at once; only `outputs` come back. Any error ends the run with it."""
    return _load([_run(url, model, requests, outputs, clients, iter(range(count)))])


class Processes:
    """Clients in several processes, where one Python would be the slowest part of what is measured."""

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._pool = ProcessPoolExecutor(most, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def load(
        self, url: str, model: str, requests: Sequence[Request], outputs: Sequence[str], clients: int, seconds: float
    ) -> Load:
        """As `load`, for some seconds. Call it once before what counts: processes take a moment to start."""
        processes = min(self.most, clients)
        begin = time.perf_counter() + CONNECTING  # the same clock in every process
        runs = []
        for own in range(processes):
            share = len(range(own, clients, processes))
            runs.append(self._pool.submit(_during, url, model, requests, outputs, share, begin, begin + seconds))
        return _load([run.result() for run in runs])


@dataclass(frozen=True)
class _Run:
    begin: float
    end: float
    cpu: float
    latencies: list[float]


def _load(runs: Sequence[_Run]) -> Load:
    wall = max(run.end for run in runs) - min(run.begin for run in runs)
    latencies = tuple(itertools.chain.from_iterable(run.latencies for run in runs))
    return Load(len(latencies) / wall, latencies, sum(run.cpu for run in runs) / wall)


def _during(
    url: str, model: str, requests: Sequence[Request], outputs: Sequence[str], clients: int, begin: float, end: float
) -> _Run:
    numbers = itertools.takewhile(lambda _: time.perf_counter() < end, itertools.count())
    return _run(url, model, requests, outputs, clients, numbers, begin)


def _run(
    url: str,
    model: str,
    requests: Sequence[Request],
    outputs: Sequence[str],
    clients: int,
    numbers: Iterator[int],
    at: float = 0.0,
) -> _Run:
    """A request for each of `numbers`, from the time `at` on."""
    ready = [tensors(request) for request in requests]
    wanted = [InferRequestedOutput(name) for name in outputs]
    start, lock = threading.Barrier(clients + 1), threading.Lock()

    def client() -> list[float]:
        spent = []
        with InferenceServerClient(url) as connection:
            connection.is_server_live()  # the connection is made before the clock runs
            start.wait()
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return spent
                begin = time.perf_counter()
                connection.infer(model, ready[number % len(ready)], outputs=wanted)
                spent.append(1e3 * (time.perf_counter() - begin))

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client) for _ in range(clients)]
        time.sleep(max(0.0, at - time.perf_counter()))
        start.wait()
        begin, cpu = time.perf_counter(), time.process_time()
        latencies = list(itertools.chain.from_iterable(one.result() for one in running))
        return _Run(begin, time.perf_counter(), time.process_time() - cpu, latencies)
