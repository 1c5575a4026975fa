"""One image from its file to the vision engine's pixels: the generated step against transformers and the bare decoder.

    python -m benchmarks.preprocessing.run [--models llava vila] [--sizes 640x480] [--torchvision]

Per model, size and file format: medians of interleaved repetitions in milliseconds, and how many values differ. Then
how the time grows with pixels, images of a request and length of the prompt. The last line is the geometric mean of
transformers' time over ours for JPEGs of the models whose images have one size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from PIL import __version__ as pillow

from benchmarks import common
from benchmarks.preprocessing import accuracy, growth, sides
from benchmarks.preprocessing.pictures import FORMATS, SIZES, file

OURS, SMALLER, PIL_CLASS, TORCHVISION, DECODE = "ours", "ours, --decode-scale", "transformers", "torchvision", "decode"

LARGE = ("1080p", "12 MP")


def timed(side: Callable[[bytes], Any], content: bytes) -> Callable[[], float]:
    def run() -> float:
        begin = time.perf_counter()
        side(content)
        return (time.perf_counter() - begin) * 1e3

    return run


def decoded(content: bytes) -> Image.Image:
    """Pillow's decoder alone, libjpeg-turbo or zlib."""
    image = Image.open(BytesIO(content))
    image.load()
    return image


def row(model: str, size: str, kind: str, repetitions: int, torchvision: bool) -> dict[str, Any]:
    """Medians of one model and file, the share of values that differ, and what --decode-scale changes."""
    content = file(SIZES[size], kind)
    runs = {OURS: sides.ours(model), PIL_CLASS: sides.theirs(model), DECODE: decoded}
    if torchvision and model != "phi-3-vision":
        runs[TORCHVISION] = sides.theirs(model, "torchvision")
    if model in sides.ONE_SIZE and kind == "JPEG":
        runs[SMALLER] = sides.ours(model, sides.ONE_SIZE[model])
    made = {name: run(content) for name, run in runs.items() if name != DECODE}  # warms up, too
    truth = made[PIL_CLASS].astype(np.float32)
    found = common.interleaved({name: timed(run, content) for name, run in runs.items()}, repetitions)
    result: dict[str, Any] = {"model": model, "size": size, "format": kind}
    result["ms"] = {name: round(common.median(values), 2) for name, values in found.items()}
    result["values that differ"] = float((made[OURS].reshape(truth.shape) != made[PIL_CLASS]).mean())
    for name in (SMALLER, TORCHVISION):
        if name in made:
            difference = np.abs(made[name].reshape(truth.shape).astype(np.float32) - truth)
            result[f"mean difference, {name}"] = round(float(difference.mean()), 4)
    return result


def line(result: dict[str, Any]) -> str:
    ms = result["ms"]
    smaller = f"{ms[SMALLER]:8.1f} {ms[PIL_CLASS] / ms[SMALLER]:5.1f}x" if SMALLER in ms else " " * 15
    return (
        f"{result['model']:13} {result['size']:8} {result['format']:5} {ms[DECODE]:8.1f} {ms[PIL_CLASS]:9.1f} "
        f"{ms[OURS]:8.1f} {ms[PIL_CLASS] / ms[OURS]:5.2f}x {result['values that differ']:9.1e} {smaller}"
    )


def mean_ratio(results: list[dict[str, Any]], side: str, sizes: tuple[str, ...], models: tuple[str, ...]) -> float:
    """Geometric mean of transformers' time over `side`'s for JPEGs; NaN where nothing was measured."""
    chosen = [
        math.log(r["ms"][PIL_CLASS] / r["ms"][side])
        for r in results
        if r["format"] == "JPEG" and r["model"] in models and r["size"] in sizes and side in r["ms"]
    ]
    return math.exp(sum(chosen) / len(chosen)) if chosen else math.nan


def goals(results: list[dict[str, Any]]) -> list[common.Goal]:
    one_size = tuple(sides.ONE_SIZE)
    others = tuple(model for model in sides.MODELS if model not in one_size)
    large = [r["ms"] for r in results if SMALLER in r["ms"] and r["size"] in LARGE]
    fast = "transformers / ours"
    wanted = [
        common.Goal(f"{fast}, one size, 640x480", 2.5, mean_ratio(results, OURS, ("640x480",), one_size), "x"),
        common.Goal(f"{fast}, one size, 1080p", 2.5, mean_ratio(results, OURS, ("1080p",), one_size), "x"),
        common.Goal(f"{fast}, tiles and patches", 2.0, mean_ratio(results, OURS, tuple(SIZES), others), "x"),
        common.Goal(f"{fast} with --decode-scale, from 1080p", 5.0, mean_ratio(results, SMALLER, LARGE, one_size), "x"),
    ]
    if large:
        worst = max(ms[SMALLER] / ms[DECODE] for ms in large)
        wanted.append(common.Goal("--decode-scale / bare decode, from 1080p, worst", 2.0, worst, "x", most=True))
    return [goal for goal in wanted if not math.isnan(goal.measured)]


def main() -> None:
    parser = common.arguments(__doc__, "preprocessing")
    parser.add_argument("--models", nargs="+", choices=sides.MODELS, default=sides.MODELS)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=tuple(SIZES))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--torchvision", action="store_true", help="also transformers' torchvision classes")
    arguments = parser.parse_args()
    facts = common.machine() | {
        "pillow": pillow,
        "transformers": transformers.__version__,
        "torch threads": torch.get_num_threads(),
    }
    sides.use_the_step()
    print("model         size     file    decode   transf.     ours  ratio    differ  --decode-scale")
    results = []
    for model in arguments.models:
        for size in arguments.sizes:
            for kind in arguments.formats:
                results.append(row(model, size, kind, arguments.repetitions, arguments.torchvision))
                print(line(results[-1]), flush=True)
    grown = growth.measure(arguments.repetitions)
    for name, found in grown.items():
        print(f"{name}: exponent {found['exponent']:.2f}, {found['ms']} ms at {found['at']}", flush=True)
    changed = accuracy.measure(tuple(arguments.models))
    for entry in changed:
        print(", ".join(f"{name}: {value}" for name, value in entry.items()), flush=True)
    size = "1080p" if "1080p" in arguments.sizes else arguments.sizes[0]
    shown = [r for r in results if r["format"] == "JPEG" and r["size"] == size]
    bars = common.Bars(
        f"One JPEG, {size}",
        "ms",
        [r["model"] for r in shown],
        {name: [r["ms"][name] for r in shown] for name in (PIL_CLASS, OURS, DECODE)},
    )
    ratio = mean_ratio(results, OURS, tuple(SIZES), tuple(sides.ONE_SIZE))
    everything = {"rows": results, "growth": grown, "--decode-scale": changed}
    common.finish(arguments.output, facts, everything, goals(results), ratio, bars)


if __name__ == "__main__":
    main()
