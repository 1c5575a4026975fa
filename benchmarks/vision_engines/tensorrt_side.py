"""One encoder, on TensorRT's side: an exported folder's engine, its errors, the vision step's code over it, its speed.

Runs under the packed Python 3.10, which has tensorrt and numpy and nothing else:
`python3.10 -m benchmarks.vision_engines.tensorrt_side build|compare|step|speed FOLDER [--level N] [--own-kernels]`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from benchmarks.vision_engines import gpu_torch
from benchmarks.vision_engines.cuda import Buffer, Stream
from generator.findings import Refused
from generator.vision_build import engine as engines

TYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}
BATCHES = (1, 4, 16)


def build(folder: Path, level: int | None, own_kernels: bool) -> dict[str, Any]:
    """Builds model.engine; `own_kernels` leaves out cuBLAS and cuDNN, where they are not installed."""
    wanted = json.loads((folder / "subject.json").read_text())
    started = time.monotonic()

    def configure(config: Any) -> None:
        if own_kernels:
            config.set_tactic_sources(0)

    engines.build(
        folder / "model.onnx",
        folder / "model.engine",
        wanted["profile"],
        wanted["dtype"],
        tell=lambda line: print(f"{folder.name}: {line}", flush=True),
        optimization_level=level,
        configure=configure,
    )
    size = (folder / "model.engine").stat().st_size
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    return {
        "build_s": round(time.monotonic() - started, 1),
        "engine_mib": round(size / 2**20),
        "memory_gib": round(memory / 2**20, 1),
    }


class Engine:
    """An engine by the calls that the vision step makes (templates/trtllm/vision_encoder/1/engine.py)."""

    def __init__(self, path: Path) -> None:
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        made = runtime.deserialize_cuda_engine(path.read_bytes())
        if made is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot load {path}")
        self.engine = made
        names = [made.get_tensor_name(index) for index in range(made.num_io_tensors)]
        self.input, self.output = sorted(names, key=lambda name: made.get_tensor_mode(name) != trt.TensorIOMode.INPUT)
        self.context: Any = made.create_execution_context()
        self.stream = Stream()
        self.least, _, self.most = (tuple(dims) for dims in made.get_tensor_profile_shape(self.input, 0))
        self.types = {name: TYPES[made.get_tensor_dtype(name).name] for name in names}
        self._buffers: list[Buffer] = []

    def describe(self) -> dict[str, Any]:
        shape = tuple(self.engine.get_tensor_shape(self.output))
        return {"input": self.input, "least": self.least, "most": self.most, "output": self.output, "declared": shape}

    def prepare(self, shape: tuple[int, ...], pixels: NDArray[Any]) -> tuple[Buffer, tuple[int, ...]]:
        for buffer in self._buffers:
            buffer.free()
        assert self.context.set_input_shape(self.input, shape)
        rows_shape = tuple(self.context.get_tensor_shape(self.output))
        self._buffers = [
            Buffer(math.prod(size) * np.dtype(self.types[name]).itemsize)
            for name, size in ((self.input, shape), (self.output, rows_shape))
        ]
        self._buffers[0].write(pixels.astype(self.types[self.input]))
        for name, buffer in zip((self.input, self.output), self._buffers, strict=True):
            assert self.context.set_tensor_address(name, buffer.address)
        return self._buffers[1], rows_shape

    def __call__(self) -> None:
        assert self.context.execute_async_v3(self.stream.handle)

    def rows(self, pixels: NDArray[Any]) -> NDArray[Any]:
        buffer, shape = self.prepare(pixels.shape, pixels)
        self()
        self.stream.synchronize()
        return buffer.read(shape, self.types[self.output]).astype(np.float32)


def compare(folder: Path) -> dict[str, Any]:
    """Error against rows.npy: of all entries, of one alone, and how far the entries differ from each other."""
    pixels, truth = np.load(folder / "pixels.npy"), np.load(folder / "rows.npy")
    engine = Engine(folder / "model.engine")
    rows = engine.rows(pixels).reshape(truth.shape)
    alone = engine.rows(pixels[:1]).reshape(truth[:1].shape)
    return {
        "tensors": engine.describe(),
        "finite": bool(np.isfinite(rows).all()),
        "error": relative_error(rows, truth),
        "worst_entry": max(relative_error(a, b) for a, b in zip(rows, truth, strict=True)),
        "alone": relative_error(alone, truth[:1]),
        "swapped": relative_error(truth[::-1], truth),
    }


def speed(folder: Path) -> dict[str, Any]:
    """Images per second, called and replayed as a CUDA graph, to be asked for while nothing else runs."""
    pixels = np.load(folder / "pixels.npy")
    engine = Engine(folder / "model.engine")
    called: dict[int, float] = {}
    replayed: dict[int, float] = {}
    for batch in (size for size in BATCHES if size <= engine.most[0]):
        shape = (batch, *pixels.shape[1:])
        engine.prepare(shape, np.resize(pixels, shape))
        called[batch] = round(batch / _seconds(engine, engine.stream), 1)
        try:  # after a call of that shape: the first one takes what recording may not
            replayed[batch] = round(batch / _seconds(engine.stream.record(engine), engine.stream), 1)
        except (AssertionError, RuntimeError) as problem:
            return {"images_s": called, "graph_images_s": replayed, "no_graph": str(problem)}
    return {"images_s": called, "graph_images_s": replayed}


def step(folder: Path) -> dict[str, Any]:
    """The vision step's own engine module over this engine: roles, fewer and more images than one call takes."""
    if importlib.util.find_spec("torch") is None:
        gpu_torch.install()
    torch = importlib.import_module("torch")
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root / part) for part in ("templates/trtllm/vision_encoder/1", "templates/shared")]
    sys.path.append(str(root / "tests/doubles"))  # Triton's module, for messages
    module = importlib.import_module("engine")
    pixels, truth = np.load(folder / "pixels.npy"), np.load(folder / "rows.npy")
    shape = tuple(pixels.shape[1:])
    made = module.Engine(str(folder / "model.engine"), shape, "cuda:0", max_batch=2)
    found: dict[str, Any] = {"least": made.least, "most": made.most, "errors": []}
    for count in (1, 2, 3):
        rows = made([torch.from_numpy(image) for image in pixels[:count]])
        made.stream.synchronize()
        rows = rows.cpu() if hasattr(rows, "cpu") else rows
        found["errors"].append(relative_error(rows.numpy().astype(np.float32), truth[:count]))
    try:
        module.Engine(str(folder / "model.engine"), (3, 8, 8), "cuda:0")
    except ValueError as problem:
        found["refused"] = str(problem)
    return found


def relative_error(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """|found - truth| / |truth| over all values."""
    return float(np.linalg.norm(found.astype(np.float64) - truth) / np.linalg.norm(truth.astype(np.float64)))


def _seconds(call: Callable[[], None], stream: Stream, repeats: int = 30) -> float:
    for _ in range(5):
        call()
    stream.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    stream.synchronize()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("build", "compare", "step", "speed"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--level", type=int)
    parser.add_argument("--own-kernels", action="store_true")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    result = folder / f"{arguments.what}.json"
    try:
        if arguments.what == "build":
            made = build(folder, arguments.level, arguments.own_kernels)
        else:
            made = {"compare": compare, "speed": speed, "step": step}[arguments.what](folder)
        made["tensorrt"] = trt.__version__
    except Refused as refused:
        made = {"failed": refused.findings[0].what}
    result.write_text(json.dumps(made))


if __name__ == "__main__":
    main()
