"""The encoder alone, as the vision step loads it: its speed with pixels that lie on the GPU, and rows to compare with.

Used by run.py; `python -m benchmarks.vision_step.raw STEP PIXELS OUTPUT [--seconds S]`, STEP a generated vision step's
version folder.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.vision_step.repository import VALUES

BATCHES = (1, 2, 4, 8, 16, 32) if torch.cuda.is_available() else (1, 16)
LOOKED_AT = 8  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", type=Path)
    parser.add_argument("pixels", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    arguments = parser.parse_args()
    settings = json.loads((arguments.step / "settings.json").read_text())
    sys.path.insert(0, str(arguments.step))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, settings["dtype"])
    tower = importlib.import_module(settings["module"]).load(settings["checkpoint"], dtype)
    pixels = torch.from_numpy(np.load(arguments.pixels)).to(device)
    if "levels" in settings:
        tower = importlib.import_module("levels").FromLevels(tower, settings["levels"], dtype)
    tower = tower.to(device).eval()
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    found |= {"torch": torch.__version__, "transformers": importlib.import_module("transformers").__version__}
    with torch.inference_mode():
        found["values"] = [
            table[:: table.numel() // VALUES][:VALUES].float().tolist()
            for table in (tower(image[None]).flatten() for image in pixels[:LOOKED_AT])
        ]
        for attention in ("eager", "sdpa") if device.type == "cuda" else ("sdpa",):
            for part in tower.modules():
                own: Any = getattr(part, "config", None)
                if hasattr(own, "_attn_implementation"):
                    own._attn_implementation = attention
            found[attention] = _speeds(tower, pixels, arguments.seconds)
        if device.type == "cuda":
            found["sdpa_graph"] = _replayed(tower, pixels, arguments.seconds)
    arguments.output.write_text(json.dumps(found))


def _speeds(tower: torch.nn.Module, pixels: torch.Tensor, seconds: float) -> dict[int, float]:
    """Images per second at each batch."""
    batches = (batch for batch in BATCHES if batch <= len(pixels))
    return {batch: _speed(lambda own=pixels[:batch]: tower(own), batch, seconds) for batch in batches}  # type: ignore[misc]


def _replayed(tower: torch.nn.Module, pixels: torch.Tensor, seconds: float) -> dict[int, float]:
    """The same, as CUDA graphs."""
    recorded = importlib.import_module("recorded")
    shape, dtype, device = pixels.shape[1:], pixels.dtype, pixels.device
    graphs = recorded.Recorded(tower, shape, dtype, device, sizes=[size for size in BATCHES if size <= len(pixels)])
    return _speeds(graphs, pixels, seconds)


def _speed(call: Callable[[], Any], images: int, seconds: float) -> float:
    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    at_once = 5 if torch.cuda.is_available() else 1
    for _ in range(at_once):
        call()
    wait()
    calls, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(at_once):
            call()
        wait()
        calls += at_once
    return round(images * calls / (time.perf_counter() - began), 1)


if __name__ == "__main__":
    main()
