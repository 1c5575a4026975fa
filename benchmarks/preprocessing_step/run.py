"""The preprocessing step inside a real Triton under load: ours, and the usual one around Hugging Face's processor.

    python -m benchmarks.preprocessing_step.run
    python -m benchmarks.preprocessing_step.run --official DIR      a third side: a filled official preprocessing folder

One server has all sides loaded, with as many instances each; they take turns. Before measuring, ours and the usual one
must answer with equal ids and equal pixels. Answers come without the pixels, which would measure the network.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from benchmarks import peers
from benchmarks.common import Bars, Goal, arguments, finish, interleaved, machine, median
from benchmarks.load import Load, Request, load, tensors, texts
from generator.bench.inputs import text
from generator.server import running
from tests import photos

GOAL = 4.0
OURS, USUAL, OFFICIAL = "preprocessing", "usual_preprocessing", "preprocessing_official"


def pictures(size: tuple[int, int]) -> list[bytes]:
    """JPEG files of photographs."""
    found = []
    for name in ("china", "flower", "chelsea", "astronaut"):
        image = Image.open(BytesIO(photos.encoded(name))).convert("RGB").resize(size, Image.Resampling.BICUBIC)
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def requests(size: tuple[int, int], words: int) -> list[Request]:
    lengths = np.array([[16]], np.int32)
    return [
        {"text_input": texts(text(i, words)), "image_encoded_input": texts(file), "max_tokens": lengths}
        for i, file in enumerate(pictures(size))
    ]


def official(request: Request) -> Request:
    """The same request under the names of the official template, which takes decoded pixels."""
    image = Image.open(BytesIO(request["image_encoded_input"][0, 0]))
    return {
        "QUERY": request["text_input"],
        "IMAGE_BYTES": np.asarray(image)[None, None],
        "REQUEST_OUTPUT_LEN": request["max_tokens"],
    }


def compare(url: str, sent: list[Request]) -> None:
    """Raises SystemExit unless both sides answer alike."""
    with InferenceServerClient(url) as client:
        for request in sent:
            one, other = (client.infer(name, tensors(request)) for name in (OURS, USUAL))
            for output in ("pixel_values", "input_ids", "input_lengths", "request_output_len"):
                if not np.array_equal(one.as_numpy(output), other.as_numpy(output)):
                    raise SystemExit(f"{output} differs between {OURS} and {USUAL}")


def repository(folder: Path, other: Path | None) -> Path:
    ours = peers.ours(folder / "whole")
    steps = folder / "steps"
    peers.our_steps(ours, steps, (OURS,))
    peers.usual_steps(ours, steps, (OURS,))
    if other:
        shutil.copytree(other, steps / OFFICIAL)
        config = steps / OFFICIAL / "config.pbtxt"
        if '"IMAGE_BYTES"' not in config.read_text():
            raise SystemExit(
                f"{other / 'config.pbtxt'} has no input IMAGE_BYTES: this release's template takes no images"
            )
        config.write_text(config.read_text().replace('name: "preprocessing"', f'name: "{OFFICIAL}"', 1))
    return steps


@dataclass(frozen=True)
class Turn:
    """One repetition of one side: what the clients saw, and the step's own processor time per request."""

    load: Load
    cpu_ms: float


def turn(url: str, model: str, sent: list[Request], outputs: list[str], clients: int, count: int) -> Turn:
    before = step_seconds(model)
    seen = load(url, model, sent, outputs, clients, count)
    return Turn(seen, 1e3 * (step_seconds(model) - before) / count)


def step_seconds(model: str) -> float:
    """Processor seconds of the Python processes that run the step's instances; its code's path is in their words."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"/steps/{model}/1/model.py" in (folder / "cmdline").read_text(errors="replace"):
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def summary(found: dict[str, list[Turn]]) -> dict[str, dict[str, float]]:
    return {
        side: {
            "requests_per_s": median([one.load.per_second for one in turns]),
            "p50_ms": median([median(one.load.latencies) for one in turns]),
            "cpu_ms": median([one.cpu_ms for one in turns]),
            "client_cores": median([one.load.client_cores for one in turns]),
        }
        for side, turns in found.items()
    }


def main() -> None:
    parser = arguments(__doc__, "preprocessing_step")
    parser.add_argument("--official", type=Path, metavar="DIR", help="the official preprocessing, its template filled")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N")
    parser.add_argument("--size", default="640x480", metavar="WxH", help="of the photographs (default: 640x480)")
    parser.add_argument("--requests", type=int, default=60, metavar="N", help="per repetition (default: 60)")
    chosen: argparse.Namespace = parser.parse_args()
    facts = machine()
    width, height = map(int, chosen.size.split("x"))
    sent = requests((width, height), words=16)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, running(repository(Path(folder), chosen.official)) as server:
        compare(server.grpc, sent)
        kinds = {OURS: sent, USUAL: sent} | ({OFFICIAL: [official(one) for one in sent]} if chosen.official else {})
        outputs = {OURS: ["input_ids"], USUAL: ["input_ids"], OFFICIAL: ["INPUT_ID"]}
        for clients in chosen.concurrency:
            sides = {
                name: partial(turn, server.grpc, name, kind, outputs[name], clients, max(chosen.requests, 2 * clients))
                for name, kind in kinds.items()
            }
            for run in sides.values():
                run()
            result[str(clients)] = summary(interleaved(sides, chosen.repetitions))
            for name, row in result[str(clients)].items():
                print(f"concurrency {clients:3}  {name:24}" + "".join(f"  {key} {row[key]:8.2f}" for key in row))
    ratios = [row[OURS]["requests_per_s"] / row[USUAL]["requests_per_s"] for row in result.values()]
    goal = Goal("least ratio of throughput, ours to usual", GOAL, min(ratios), "x")
    shown = {name: [row[name]["requests_per_s"] for row in result.values()] for name in kinds}
    plot = Bars(f"preprocessing step, {chosen.size}", "requests/s", list(result), shown)
    whole = {"size": chosen.size, "repetitions": chosen.repetitions, "by_concurrency": result}
    finish(chosen.output, facts, whole, [goal], min(ratios), plot)


if __name__ == "__main__":
    main()
