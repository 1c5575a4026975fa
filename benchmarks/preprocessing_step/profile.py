"""Where the preprocessing step's time goes: ours and Hugging Face's processor, each in one process without a server.

    python -m benchmarks.preprocessing_step.profile [--size WxH] [--requests N]

Prints the functions with the most time of their own, in ms of processor time per request, by cProfile.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import peers
from benchmarks.load import Request
from benchmarks.preprocessing_step.run import requests
from tests.checkpoints import cached

LINES = 10


def our_step(folder: Path) -> Callable[[Request], Any]:
    """The step's own code, called as the server calls it; Triton's module is the tests' stand-in."""
    sys.path[:0] = [str(Path(__file__).parents[2] / "tests/doubles"), str(folder / "preprocessing/1")]
    backend, model = (importlib.import_module(name) for name in ("triton_python_backend_utils", "model"))
    step = model.TritonPythonModel()
    step.initialize({})

    def answer(request: Request) -> Any:
        inputs = [backend.Tensor(name, values) for name, values in request.items()]
        return step.execute([backend.InferenceRequest(inputs=inputs)])

    return answer


def processor() -> Callable[[Request], Any]:
    from transformers import AutoProcessor

    made = AutoProcessor.from_pretrained(cached(peers.MODEL))

    def answer(request: Request) -> Any:
        text = f"USER: <image>\n{request['text_input'][0, 0].decode()} ASSISTANT:"
        picture = Image.open(BytesIO(request["image_encoded_input"][0, 0])).convert("RGB")
        return made(images=[picture], text=text, return_tensors="np")

    return answer


def show(name: str, answer: Callable[[Request], Any], sent: list[Request], count: int) -> None:
    answer(sent[0])
    profile = cProfile.Profile(time.process_time)  # so that other programs on the machine do not show
    profile.enable()
    for number in range(count):
        answer(sent[number % len(sent)])
    profile.disable()
    stats: Any = pstats.Stats(profile)
    print(f"{name}: {1e3 * stats.total_tt / count:.2f} ms of processor time per request")
    rows = sorted(stats.stats.items(), key=lambda row: -row[1][2])[:LINES]
    for (file, line, function), (_, calls, own, _, _) in rows:
        where = f"{Path(file).name}:{line} " if line else ""
        print(f"  {1e3 * own / count:8.2f} ms  {calls / count:7.1f} calls  {where}{function}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x480", metavar="WxH")
    parser.add_argument("--requests", type=int, default=40, metavar="N")
    chosen = parser.parse_args()
    width, height = map(int, chosen.size.split("x"))
    sent = requests((width, height), words=16)
    with tempfile.TemporaryDirectory() as folder:
        show("ours", our_step(peers.ours(Path(folder) / "ours")), sent, chosen.requests)
    show("Hugging Face's processor", processor(), sent, chosen.requests)


if __name__ == "__main__":
    main()
