"""One encoder, on the torch side: checkpoint and ONNX file; pixels and their rows by torch in fp32; torch's own speed.

Used by run.py; `python -m benchmarks.vision_engines.export export|truth|torch FOLDER MODEL [--pixels uint8]
[--vision-backend tensorrt] [--layers N]`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.vision_engines.encoders import MAKERS
from generator.models import find
from generator.vision_build import tower as towers
from generator.vision_build.command import build, config
from generator.vision_build.subject import BuildOptions, Subject, subject

BATCHES = (1, 4, 16)
COMPARED = 3  # entries
NOISE = 0.0005  # of a pixel's value: about half precision's rounding


def _subject(folder: Path, model: str, pixels: str, backend: str) -> tuple[BuildOptions, Subject]:
    spec, _ = find(model)
    checkpoint = folder / "checkpoint"
    projector = spec.checkpoint.projector
    options = BuildOptions(
        model=model,
        hf_model_dir=checkpoint,
        output=folder,
        projector=checkpoint / projector if projector else None,
        onnx_only=True,
        vision_backend=backend,  # type: ignore[arg-type]
        max_batch_size=4 if projector or backend == "tensorrt" else 16,  # of clips of many frames, or of requests
        max_images=2 if backend == "tensorrt" and spec.max_images is None else None,
        precision="fp16" if torch.cuda.is_available() else "fp32",  # CPUs are slow at half precision
        pixels=pixels,  # type: ignore[arg-type]
    )
    return options, subject(options)[0]


def export(folder: Path, model: str, pixels: str, backend: str, layers: int | None) -> dict[str, Any]:
    """Writes checkpoint/, model.onnx, config.json and subject.json."""
    MAKERS[model](folder / "checkpoint", layers)
    options, wanted = _subject(folder, model, pixels, backend)
    started = time.monotonic()
    build(options, tell=lambda line: None)
    exported = time.monotonic() - started
    (folder / "config.json").write_text(json.dumps(config(wanted, "", {})))
    (folder / "subject.json").write_text(json.dumps({"profile": wanted.profile, "dtype": wanted.dtype}))
    return {"export_s": round(exported, 1)}


def truth(folder: Path, model: str, pixels: str, backend: str) -> dict[str, Any]:
    """Writes pixels.npy and rows.npy, by torch in fp32.

    Tells, too, of pixels that are no levels, how far noise in them moves the rows. Where that is much, an error of an
    engine says something about the weights alone.
    """
    _, wanted = _subject(folder, model, pixels, backend)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module, _ = towers.load(replace(wanted, dtype="float32"))
    inputs = _whole(wanted, module, COMPARED)
    exact = inputs if inputs.dtype == torch.uint8 else inputs.float()
    facts: dict[str, Any] = {"weights": sum(weight.numel() for weight in module.parameters())}
    with torch.no_grad():
        rows = module(exact).float().flatten(1, -2)
        if inputs.dtype != torch.uint8:
            noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1)).to(inputs.device)
            if wanted.layout == "flattened_patches":
                noise[..., :2] = 0  # a patch's line and column
            moved = module(exact * (1 + NOISE * noise)).float().flatten(1, -2)
            facts["noise_moves"] = relative_error(moved, rows)
    np.save(folder / "pixels.npy", inputs.cpu().numpy())
    np.save(folder / "rows.npy", rows.cpu().numpy())
    return {"rows": list(rows.shape[1:]), **facts}


def _whole(wanted: Subject, module: torch.nn.Module, entries: int) -> torch.Tensor:
    """Pixels at the largest open size."""
    shape = tuple(wanted.largest if side < 0 else side for side in wanted.entry_shape)
    return towers.sample(replace(wanted, entry_shape=shape), module, entries)


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """|found - truth| / |truth| over all values."""
    return float((found.double() - truth.double()).norm() / truth.double().norm())


def torch_itself(folder: Path, model: str, pixels: str, backend: str) -> dict[str, Any]:
    """Error and images per second of torch in fp16, with plain attention and with torch's own kernels."""
    _, wanted = _subject(folder, model, pixels, backend)
    inputs, rows = (torch.from_numpy(np.load(folder / name)) for name in ("pixels.npy", "rows.npy"))
    module, _ = towers.load(wanted)
    inputs, rows = (tensor.to(next(module.parameters()).device) for tensor in (inputs, rows))
    found: dict[str, Any] = {}
    for attention in ("eager", "sdpa"):
        for part in module.modules():
            own: Any = getattr(part, "config", None)
            if hasattr(own, "_attn_implementation"):
                own._attn_implementation = attention
        with torch.no_grad():
            error = relative_error(module(inputs).flatten(1, -2), rows)
        found[attention] = {"error": error, "images_s": _speeds(wanted, module)}
    return found


def _speeds(wanted: Subject, module: torch.nn.Module) -> dict[int, float]:
    if not torch.cuda.is_available():
        return {}
    speeds = {}
    for batch in (size for size in BATCHES if size <= wanted.max_batch_size):
        images = _whole(wanted, module, batch)
        with torch.no_grad():
            speeds[batch] = round(batch / _seconds(lambda images=images: module(images)), 1)  # type: ignore[misc]
    return speeds


def _seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Mean time of a call on the GPU."""
    for _ in range(3):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000 / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("export", "truth", "torch"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", choices=MAKERS)
    parser.add_argument("--pixels", choices=("float", "uint8"), default="float")
    parser.add_argument("--vision-backend", choices=("python", "tensorrt"), default="python")
    parser.add_argument("--layers", type=int, help="fewer layers than published, for a trial")
    arguments = parser.parse_args()
    asked = arguments.folder.resolve(), arguments.model, arguments.pixels, arguments.vision_backend
    if arguments.what == "export":
        made = export(*asked, arguments.layers)
    else:
        made = {"truth": truth, "torch": torch_itself}[arguments.what](*asked)
    (asked[0] / f"{arguments.what}.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main()
