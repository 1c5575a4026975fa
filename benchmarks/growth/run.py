"""How a request's latency grows through a whole served repository: with pixels, images, prompt, tokens and clients.

    python -m benchmarks.growth.run

Tiny VILA on the torch runtime, asked through the streaming front of a real Triton. One thing grows at a time, its sizes
take turns, and exponents are fitted to the medians by least squares on logarithms: 1 is linear, 0 is no growth. What a
request costs anyway is part of each latency, so exponents below 1 say no more than that a thing is not the bottleneck.
The last line is the largest exponent.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # before torch is loaded in the server

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Goal, Lines, arguments, finish, interleaved, machine, median
from benchmarks.preprocessing.pictures import file
from benchmarks.streaming.run import Client, connected
from generator.generate import generate
from generator.options import Options
from generator.plan import FRONT
from generator.server import Server, running
from tests.checkpoints import cached
from tests.parity.client import strings

LINEAR = 1.1
SIZES = ((640, 480), (1280, 960), (2560, 1920), (4032, 3024))
IMAGES = (1, 2, 4, 8)
WORDS = (16, 64, 256)
TOKENS = (16, 64, 256)
CLIENTS = (1, 2, 4, 8, 16)
Request = dict[str, Any]


def repository(folder: Path) -> Path:
    options = Options(
        "vila",
        cached("vila"),
        runtime="torch",
        output=folder / "vila",
        streaming=True,
        max_images=max(IMAGES),
    )
    outcome = generate(options)
    assert not outcome.failed, outcome.findings
    return outcome.output


def request(words: int = 8, size: tuple[int, int] = SIZES[0], images: int = 1, tokens: int = 4) -> Request:
    """Answers have exactly `tokens`: the model is random, and its end token is held back as long."""
    text = " ".join(["what", "is", "in", "this", "picture", "of", "yours", "here"][n % 8] for n in range(words))
    return {
        "text_input": strings([[text.encode()]]),
        "image_encoded_input": strings([[file(size)] * images]),
        "max_tokens": np.array([[tokens]], np.int32),
        "min_tokens": np.array([[tokens]], np.int32),
        "stream": np.array([[True]]),
    }


def grown() -> dict[str, dict[int, Request]]:
    """{what grows: {how large: the request}}."""
    return {
        "pixels of an image": {width * height: request(size=(width, height)) for width, height in SIZES},
        "images of a request": {count: request(images=count) for count in IMAGES},
        "words of the prompt": {count: request(words=count) for count in WORDS},
        "streamed tokens": {count: request(tokens=count) for count in TOKENS},
    }


def together(server: Server, clients: int) -> Callable[[], float]:
    """Milliseconds until as many clients, which asked at the same moment, have their answers."""

    def run() -> float:
        with ThreadPoolExecutor(clients) as pool:

            def one(_: int) -> float:
                with connected(server) as client:
                    return client.seconds(FRONT, asked)

            return 1e3 * max(pool.map(one, range(clients)))

    asked = request()
    return run


def fitted(sides: Mapping[int, Callable[[], float]], repetitions: int) -> dict[str, Any]:
    found = interleaved({str(at): run for at, run in sides.items()}, repetitions + 1)
    medians = [median(values[1:]) for values in found.values()]  # the first warms up
    exponent = float(np.polyfit(np.log(list(sides)), np.log(medians), 1)[0])
    return {"at": list(sides), "ms": [round(value, 2) for value in medians], "exponent": round(exponent, 3)}


def alone(client: Client, asked: Request) -> Callable[[], float]:
    return lambda: 1e3 * client.seconds(FRONT, asked)


def main() -> None:
    chosen = arguments(__doc__, "growth").parse_args()
    facts = machine()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, running(repository(Path(folder))) as server:
        with connected(server) as client:
            for what, requests in grown().items():
                sides = {at: alone(client, one) for at, one in requests.items()}
                result[what] = fitted(sides, chosen.repetitions)
        clients = {count: together(server, count) for count in CLIENTS}
        result["clients at once"] = fitted(clients, chosen.repetitions)
    for what, found in result.items():
        line = ", ".join(f"{at}: {value:.1f} ms" for at, value in zip(found["at"], found["ms"], strict=True))
        print(f"{what:20} exponent {found['exponent']:.2f}  ({line})")
    goals = [Goal(f"{what}, exponent", LINEAR, found["exponent"], most=True) for what, found in result.items()]
    plots = [
        Lines(what, "ms", found["at"], found["ms"], f"exponent {found['exponent']:.2f}")
        for what, found in result.items()
    ]
    finish(chosen.output, facts, result, goals, max(found["exponent"] for found in result.values()), *plots)


if __name__ == "__main__":
    main()
