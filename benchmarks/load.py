"""Clients in a closed loop: each sends its next request when it has the answer to the one before."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

Request = Mapping[str, NDArray[Any]]


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
    ready = [tensors(request) for request in requests]
    wanted = [InferRequestedOutput(name) for name in outputs]
    numbers, start = iter(range(count)), threading.Barrier(clients + 1)
    lock = threading.Lock()

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
        start.wait()
        begin, cpu = time.perf_counter(), time.process_time()
        latencies = list(itertools.chain.from_iterable(one.result() for one in running))
        wall = time.perf_counter() - begin
    return Load(count / wall, tuple(latencies), (time.process_time() - cpu) / wall)
